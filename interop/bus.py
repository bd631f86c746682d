#!/usr/bin/env python3
"""The registration bus against libzmq in both roles: abstract, path and TCP sockets, heartbeats,
a publisher that is restarted. Needs python3 with pyzmq and target/release/examples/bus
(cargo build --release -p conjure-bus --example bus)."""

import os
import socket
import subprocess
import sys
import tempfile
import time

try:
    import zmq
except ImportError:
    print("zmq: skipped: needs python3 with pyzmq")
    sys.exit(77)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUS = os.path.join(ROOT, "target", "release", "examples", "bus")
MESSAGES = [b"a", b"x" * 300, b"y" * 70_000]
LIMIT_MS = 20_000


def start(role, endpoint):
    return subprocess.Popen(
        [BUS, role, endpoint], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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


def our_subscriber(context, endpoint):
    publisher = context.socket(zmq.PUB)
    publisher.bind(endpoint)
    subscriber = start("sub", endpoint)
    try:
        publish_until_heard(publisher, subscriber)
        # Longer than two heartbeats of the subscriber, which libzmq has to answer.
        time.sleep(2.5)
        for message in MESSAGES:
            publisher.send(message)
            assert bytes.fromhex(subscriber.stdout.readline().strip()) == message
        publisher.close(0)
        time.sleep(0.2)
        publisher = context.socket(zmq.PUB)
        publisher.bind(endpoint)
        publish_until_heard(publisher, subscriber)
    finally:
        subscriber.kill()
        subscriber.wait()
        publisher.close(0)


def our_publisher(context, endpoint, heartbeat):
    publisher = start("pub", endpoint)
    subscriber = context.socket(zmq.SUB)
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
    context.term()


main()
