#!/usr/bin/env python3
"""obfs4proxy against the station in both roles.

  obfs4.py live      on the client's node of the demo: its client through phantoms of the station
  obfs4.py offline   its server, with our client; needs target/release/examples/obfs4
                     (cargo build --release -p conjure-transports --example obfs4)
"""

import contextlib
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELEASE = os.path.join(ROOT, "target", "release")
PROXY = shutil.which("obfs4proxy")
failed = False


def report(role, error):
    global failed
    failed |= error is not None
    print(f"{VERSION}: {role}: " + ("ok" if error is None else f"FAILED: {error}"), flush=True)


@contextlib.contextmanager
def proxy(state, **variables):
    """A running obfs4proxy and the line that says where it listens."""
    environment = {
        **os.environ,
        "TOR_PT_MANAGED_TRANSPORT_VER": "1",
        "TOR_PT_STATE_LOCATION": state,
        "TOR_PT_EXIT_ON_STDIN_CLOSE": "1",
        **variables,
    }
    process = subprocess.Popen(
        [PROXY], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        lines = iter(process.stdout.readline, "")
        yield next(line for line in lines if "METHOD obfs4" in line)
    finally:
        process.stdin.close()
        process.kill()
        process.wait()


def echo_server():
    """Echoes until the client has ended."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection):
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def offline(state):
    port = echo_server()
    with proxy(
        state,
        TOR_PT_SERVER_TRANSPORTS="obfs4",
        TOR_PT_SERVER_BINDADDR="obfs4-127.0.0.1:0",
        TOR_PT_ORPORT=f"127.0.0.1:{port}",
    ) as line:
        address, cert = re.search(r"obfs4 (\S+) ARGS:(cert=[^,]+)", line).groups()
        example = os.path.join(RELEASE, "examples", "obfs4")
        for size in [1, 1427, 1428, 300_000] + [20_000] * 16:
            run = subprocess.run(
                [example, "echo", address, cert, str(size)],
                capture_output=True,
                text=True,
                timeout=60,
            )
            if run.returncode != 0:
                report("server of our client", f"{size} bytes: {run.stderr.strip()}")
                return
    report("server of our client, 20 tunnels", None)


def live(state):
    demo = os.environ["CONJURE_DEMO_DIR"]
    with open(os.path.join(demo, "www", "blob"), "rb") as blob:
        expected = hashlib.sha256(blob.read()).digest()
    families = [
        ("ipv6", "http://[fd10:3::2]:8080", "[2001:db8:4::2]:443", "ClientConf.6", "--disable-ipv4"),
        ("ipv4", "http://10.10.3.2:8080", "198.51.100.2:443", "ClientConf.4", "--disable-ipv6"),
    ]
    with proxy(state, TOR_PT_CLIENT_TRANSPORTS="obfs4") as line:
        socks = line.split()[-1]
        for family, registrar, covert, conf, option in families:
            role = f"client of the station, {family}"
            register = [
                *[os.path.join(RELEASE, "station"), "client", "--register-only", option],
                *["--registrar", "bdapi", "--transport", "obfs4", "--connect-addr", covert],
                *["--api-endpoint", f"{registrar}/register-bidirectional"],
                *["--client-conf", os.path.join(demo, conf)],
            ]
            made = subprocess.run(register, capture_output=True, text=True, timeout=30)
            if made.returncode != 0:
                report(role, made.stderr.strip())
                continue
            phantom, arguments = made.stdout.split("\n")[:2]
            # The arguments of a transport travel as user name and password of SOCKS.
            user = arguments.replace(" ", ";")[:-1] + ":" + arguments[-1]
            for _ in range(5):
                got = subprocess.run(
                    [
                        *["curl", "--silent", "--show-error", "--max-time", "40"],
                        *["--cacert", os.path.join(demo, "cert.pem")],
                        *["--socks5", socks, "--proxy-user", user],
                        *["--connect-to", f"decoy.example:443:{phantom}"],
                        "https://decoy.example/blob",
                    ],
                    capture_output=True,
                )
                if got.returncode != 0:
                    report(role, got.stderr.decode().strip())
                    break
                if hashlib.sha256(got.stdout).digest() != expected:
                    report(role, "other bytes arrived")
                    break
            else:
                report(f"{role}, 5 downloads", None)


if PROXY is None:
    print("obfs4proxy: skipped: needs obfs4proxy")
    sys.exit(0)
VERSION = subprocess.run([PROXY, "--version"], capture_output=True, text=True).stdout.strip()
VERSION = VERSION.replace("-", " ", 1)
with tempfile.TemporaryDirectory() as directory:
    {"live": live, "offline": offline}[sys.argv[1]](directory)
sys.exit(failed)
