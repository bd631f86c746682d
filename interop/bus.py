#!/usr/bin/env python3
"""The registration bus against libzmq in both roles: abstract, path and TCP sockets, heartbeats,
a publisher that is restarted; CURVE with right, unlisted and wrong keys. Needs python3 with pyzmq and target/release/examples/bus
(cargo build --release -p conjure-bus --example bus)."""

import os
import socket
import subprocess
import sys
import tempfile
import time

try:
    import zmq
    import zmq.auth
    from zmq.auth.thread import ThreadAuthenticator
    from zmq.utils import z85
    from zmq.utils.monitor import recv_monitor_message
except ImportError:
    print("zmq: skipped: needs python3 with pyzmq")
    sys.exit(77)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUS = os.path.join(ROOT, "target", "release", "examples", "bus")
MESSAGES = [b"a", b"x" * 300, b"y" * 70_000]
LIMIT_MS = 20_000


def start(role, endpoint, *keys, **options):
    return subprocess.Popen(
        [BUS, role, endpoint, *keys],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def publish_until_heard(publisher, subscriber):
    """A subscription takes a moment to arrive; what was published before it is lost."""
    import select

    for _ in range(200):
        publisher.send(b"hello")
        if select.select([subscriber.stdout], [], [], 0.1)[0]:
            break
    else:
        raise SystemExit("zmq: no message arrived")
    while select.select([subscriber.stdout], [], [], 0.5)[0]:
        assert bytes.fromhex(subscriber.stdout.readline().strip()) == b"hello"


class Keys:
    """A CURVE key pair as libzmq (Z85) and as our example take it (hexadecimal digits)."""

    def __init__(self):
        self.public, self.secret = zmq.curve_keypair()
        self.public_hex = z85.decode(self.public).hex()
        self.secret_hex = z85.decode(self.secret).hex()


def secured_publisher(context, endpoint, server):
    publisher = context.socket(zmq.PUB)
    if server:
        publisher.curve_server = True
        publisher.curve_secretkey = server.secret
        publisher.curve_publickey = server.public
        publisher.zap_domain = b"*"
    publisher.bind(endpoint)
    return publisher


def our_subscriber(context, endpoint, server=None, client=None):
    publisher = secured_publisher(context, endpoint, server)
    keys = [server.public_hex, client.secret_hex] if server else []
    subscriber = start("sub", endpoint, *keys)
    try:
        publish_until_heard(publisher, subscriber)
        # Longer than two heartbeats of the subscriber, which libzmq has to answer.
        time.sleep(2.5)
        for message in MESSAGES:
            publisher.send(message)
            assert bytes.fromhex(subscriber.stdout.readline().strip()) == message
        publisher.close(0)
        time.sleep(0.2)
        publisher = secured_publisher(context, endpoint, server)
        publish_until_heard(publisher, subscriber)
    finally:
        subscriber.kill()
        subscriber.wait()
        publisher.close(0)


def our_publisher(context, endpoint, heartbeat, server=None, client=None, admitted=()):
    keys = [server.secret_hex, *admitted] if server else []
    publisher = start("pub", endpoint, *keys)
    subscriber = context.socket(zmq.SUB)
    if server:
        secure(subscriber, server.public, client)
    if heartbeat:
        subscriber.setsockopt(zmq.HEARTBEAT_IVL, 300)
        subscriber.setsockopt(zmq.HEARTBEAT_TIMEOUT, 300)
        subscriber.setsockopt(zmq.HEARTBEAT_TTL, 900)
    subscriber.setsockopt(zmq.RCVTIMEO, LIMIT_MS)
    subscriber.setsockopt(zmq.SUBSCRIBE, b"")
    try:
        publisher.stdout.readline()
        monitor = subscriber.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        subscriber.connect(endpoint)
        for _ in range(200):
            publisher.stdin.write("hello\n")
            publisher.stdin.flush()
            if publisher.stdout.readline().startswith("queued 1 "):
                break
            time.sleep(0.1)
        assert subscriber.recv() == b"hello"
        time.sleep(2)
        for message in MESSAGES:
            publisher.stdin.write(message.decode() + "\n")
            publisher.stdin.flush()
            assert subscriber.recv() == message
        assert not monitor.poll(0), "the connection was broken"
        subscriber.disable_monitor()
    finally:
        publisher.stdin.close()
        publisher.wait()
        subscriber.close(0)


def secure(subscriber, server_key, client):
    subscriber.curve_serverkey = server_key
    subscriber.curve_publickey = client.public
    subscriber.curve_secretkey = client.secret


def refused_by_us(context, endpoint, server, client, server_key, event):
    """libzmq subscribes with a key that is wrong somewhere: it learns so, and hears nothing."""
    publisher = start("pub", endpoint, server.secret_hex, Keys().public_hex)
    subscriber = context.socket(zmq.SUB)
    secure(subscriber, server_key, client)
    subscriber.setsockopt(zmq.SUBSCRIBE, b"")
    try:
        publisher.stdout.readline()
        events = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED
        monitor = subscriber.get_monitor_socket(events)
        subscriber.connect(endpoint)
        assert monitor.poll(LIMIT_MS), "no event"
        found = recv_monitor_message(monitor)
        assert found["event"] == event, found
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            assert found["value"] == 400, found
        publisher.stdin.write("secret\n")
        publisher.stdin.flush()
        assert publisher.stdout.readline().startswith("queued 0 ")
        assert not subscriber.poll(500)
        subscriber.disable_monitor()
    finally:
        publisher.stdin.close()
        publisher.wait()
        subscriber.close(0)


def refused_by_libzmq(context, endpoint, server, client, server_key, reason):
    """We subscribe with a key that is wrong somewhere: the reason is reported."""
    publisher = secured_publisher(context, endpoint, server)
    subscriber = start("sub", endpoint, server_key, client.secret_hex, stderr=subprocess.PIPE)
    try:
        line = subscriber.stderr.readline()
        assert line.startswith("handshake failed: CURVE: ") and reason in line, line
    finally:
        subscriber.kill()
        subscriber.wait()
        publisher.close(0)


def curve(context):
    version = zmq.zmq_version()
    server, client, other = Keys(), Keys(), Keys()

    def endpoint():
        return f"tcp://127.0.0.1:{free_port()}"

    our_publisher(context, endpoint(), True, server, client, [other.public_hex, client.public_hex])
    our_publisher(context, endpoint(), False, server, client, ["*"])
    print(f"zmq: libzmq {version} subscribes under CURVE, listed and where all are, we publish: ok")
    refused_by_us(
        context, endpoint(), server, client, server.public, zmq.EVENT_HANDSHAKE_FAILED_AUTH
    )
    print("zmq: libzmq subscribes under CURVE with an unlisted key, refused with 400: ok")
    refused_by_us(context, endpoint(), server, client, other.public, zmq.EVENT_DISCONNECTED)
    print("zmq: libzmq subscribes under CURVE with a wrong server key, refused: ok")

    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    with tempfile.TemporaryDirectory() as folder:
        zmq.auth.create_certificates(folder, "listed")
        with open(os.path.join(folder, "listed.key"), "w") as file:
            file.write(f'metadata\ncurve\n    public-key = "{client.public.decode()}"\n')
        authenticator.configure_curve(domain="*", location=folder)
        our_subscriber(context, endpoint(), server, client)
        print(f"zmq: our subscriber under CURVE, libzmq {version} publishes: ok")
        refused_by_libzmq(
            context, endpoint(), server, other, server.public_hex, "with status 400"
        )
        print("zmq: our subscriber under CURVE with an unlisted key says so: ok")
        refused_by_libzmq(
            context, endpoint(), server, client, other.public_hex, "not the configured server key"
        )
        print("zmq: our subscriber under CURVE with a wrong server key says so: ok")
    authenticator.stop()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def main():
    context = zmq.Context()
    with tempfile.TemporaryDirectory() as folder:
        name = f"interop-{os.getpid()}"
        endpoints = [f"ipc://@{name}", f"ipc://{folder}/bus", f"tcp://127.0.0.1:{free_port()}"]
        for endpoint in endpoints:
            our_subscriber(context, endpoint)
            print(f"zmq: our subscriber, libzmq {zmq.zmq_version()} publishes, {endpoint}: ok")
            for heartbeat in (False, True):
                our_publisher(context, endpoint, heartbeat)
                kind = "with heartbeats" if heartbeat else "plain"
                print(f"zmq: libzmq subscribes {kind}, we publish, {endpoint}: ok")
    if not zmq.has("curve"):
        raise SystemExit("zmq: this libzmq has no CURVE")
    curve(context)
    context.term()


main()
