#!/usr/bin/env python3
"""Second opinions: programs that other people wrote from the same specifications, when they are
in the folder named by CONJURE_PEERS. They are no part of the project.

peers.py offline    their own checks; tags made by one side and opened by the other
peers.py live       on the client's node of the demo: registrations whose phantoms, ports and keys
                    they choose, for every client version, and connections through them
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PEERS = os.environ["CONJURE_PEERS"]
TAG_PEER = os.path.join(ROOT, "target", "release", "examples", "peer")
VECTORS = os.path.join(ROOT, "testdata", "vectors")
ECHO_PORT = 7007
sys.path.insert(0, PEERS)
failed = 0


def check(peer, role, work):
    global failed
    try:
        work()
        result = "ok"
    except Exception as error:
        detail = " ".join(str(error).split()) or "no reason given"
        result = f"FAILED: {type(error).__name__} {detail[:160]}"
        failed += 1
    print(f"{peer}: {role}: {result}", flush=True)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"exit {done.returncode}: {(done.stderr or done.stdout)[-200:]}")
    return done.stdout


def reference(name, *arguments):
    return run(sys.executable, os.path.join(PEERS, f"{name}_reference.py"), *arguments)


def equal(found, expected, what):
    if found != expected:
        raise RuntimeError(f"{what} {found}, expected {expected}")


def station_key():
    made = json.loads(reference("tag", "genkey", "--seed", secrets.token_hex(8)))
    return made["privkey_file"][:64], made["pubkey_file"]


def their_tags():
    for _ in range(20):
        private, public = station_key()
        made = json.loads(reference("tag", "create", "--station-pub", public))
        secret, message = run(TAG_PEER, "check", private, made["tls_record"]).split()
        equal(secret, made["shared_secret"], "shared secret")
        equal(message, made["c2s"], "registration")


def our_tags():
    for n in range(20):
        private, public = station_key()
        # Generation, library version, transport and a covert of varying length.
        message = bytes.fromhex("10bd0728046001a201") + bytes([n]) + b"c" * n
        record, secret = run(TAG_PEER, "create", public, message.hex()).split()
        opened = json.loads(reference("tag", "decode", "--station-priv", private, "--record", record))
        equal(opened["result"], "accept", "result")
        equal(opened["shared_secret"], secret, "shared secret")
        equal(opened["c2s"][: len(message) * 2], message.hex(), "registration")


def foreign_tags():
    made = json.loads(reference("tag", "create", "--station-pub", station_key()[1]))
    done = subprocess.run([TAG_PEER, "check", station_key()[0], made["tls_record"]], capture_output=True)
    equal(done.returncode, 1, "exit status for a tag of another station")


def offline():
    for name in ("phantom", "registrar", "transports"):
        check(f"python {name}", "its own checks", lambda: reference(name, "selftest"))
    files = [f"detector-{name}.json" for name in ("tags", "elligator", "upstream")]
    paths = [os.path.join(VECTORS, name) for name in files]
    check("python tag", "checks our test vectors", lambda: reference("tag", "check", *paths))
    check("python tag", "makes 20 tags, we open them", their_tags)
    check("python tag", "opens 20 tags that we make", our_tags)
    check("python tag", "makes a tag for another station, we refuse it", foreign_tags)


def live():
    import phantom_reference as phantoms
    import registrar_reference as registrar

    groups = [phantoms.Group(1, ["192.122.190.0/24", "2001:48a8:687f:1::/64"], True)]
    station = station_public()

    def connect(version, transport, v6, prefix=None):
        secret = secrets.token_bytes(32)
        stream = phantoms.conjure_stream(secret, version)
        net, address = phantoms.station_select(stream.read(16), groups, version, v6)
        phantom = phantoms.ip_text(address, net.is4)
        covert = f"[2001:db8:4::2]:{ECHO_PORT}" if v6 else f"198.51.100.2:{ECHO_PORT}"
        fields = dict(generation=1, libver=version, transport=1, covert=covert, v6=v6, v4=not v6)
        port = 443
        extra = []
        if transport == "prefix":
            known = {p[0]: p for p in phantoms.PREFIXES}
            port = known[prefix][3]
            url = "type.googleapis.com/proto.PrefixTransportParams"
            params = registrar.f_varint(1, prefix)
            fields.update(transport=4, params=registrar.f_bytes(1, url) + registrar.f_bytes(2, params))
            extra = [str(prefix), station]
        message = registrar.c2s_wrapper(secret=secret, payload=registrar.client_to_station(**fields))
        equal(post("fd10:3::2" if v6 else "10.10.3.2", message), 204, "status")
        time.sleep(0.75)
        reference("transports", "connect", phantom, str(port), transport, secret.hex(), str(version), *extra)

    def probe():
        for host in ("10.10.3.2", "fd10:3::2"):
            answer = reference("registrar", "probe-http", host, "8080")
            if not answer.startswith("b'HTTP/1.1 204 "):
                raise RuntimeError(answer[:80])

    def probe_dns():
        zone = "r.refraction.network"
        answer = reference("registrar", "probe-dns", "10.10.3.2", "53", zone, station_public())
        # One part of two: the registrar waits for the other.
        equal(answer.strip(), "0801", "reply")

    check("python registrar", "registers over HTTP", probe)
    check("python registrar", "sends a part over DNS", probe_dns)
    echo = start_echo()
    try:
        for version in range(5):
            for v6 in (True, False):
                family = "ipv6" if v6 else "ipv4"
                role = f"client version {version}, min {family}, 5,000 bytes echoed"
                check("python transports", role, lambda: connect(version, "min", v6))
        for prefix in range(10):
            role = f"prefix {prefix} ipv4, 5,000 bytes echoed"
            check("python transports", role, lambda: connect(4, "prefix", False, prefix))
    finally:
        echo.kill()
        echo.wait()


def station_public():
    """The station's public key: the second half of its key file."""
    with open(os.path.join(os.environ["CONJURE_DEMO_DIR"], "privkey"), "rb") as file:
        return file.read()[32:64].hex()


def post(host, body):
    with socket.create_connection((host, 8080), timeout=10) as stream:
        head = "POST /register HTTP/1.1\r\nHost: registrar\r\nConnection: close\r\n"
        stream.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = stream.recv(4096)
    return int(answer.split()[1])


ECHO = """
import socket, sys, threading
def serve(stream):
    while data := stream.recv(65536):
        stream.sendall(data)
    stream.close()
server = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


def start_echo():
    """A covert that echoes, on the decoy's node."""
    command = ["nsenter", "--net=/run/netns/decoy", sys.executable, "-c", ECHO, str(ECHO_PORT)]
    echo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    echo.stdout.readline()
    return echo


if __name__ == "__main__":
    {"offline": offline, "live": live}[sys.argv[1]]()
    sys.exit(1 if failed else 0)
