#!/usr/bin/env python3
"""A STUN server for the released client, which asks a fixed one: answers binding requests (RFC 5389)
over IPv4 and IPv6 with the address it sees. Prints `ready` when it listens. Arguments: PORT."""
import socket
import struct
import sys

MAGIC = 0x2112A442


def answer(request, peer):
    kind, _, magic = struct.unpack("!HHI", request[:8])
    if kind != 1 or magic != MAGIC:
        return None
    transaction = request[8:20]
    address = peer[0].split("%")[0]
    if address.startswith("::ffff:"):
        family, raw = 1, socket.inet_pton(socket.AF_INET, address[7:])
    else:
        family, raw = 2, socket.inet_pton(socket.AF_INET6, address)
    mask = struct.pack("!I", MAGIC) + transaction
    port = peer[1] ^ (MAGIC >> 16)
    value = struct.pack("!BBH", 0, family, port) + bytes(a ^ b for a, b in zip(raw, mask))
    attribute = struct.pack("!HH", 0x0020, len(value)) + value
    return struct.pack("!HHI", 0x0101, len(attribute), MAGIC) + transaction + attribute


def main():
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", int(sys.argv[1])))
    print("ready", flush=True)
    while True:
        request, peer = server.recvfrom(2048)
        reply = answer(request, peer) if len(request) >= 20 else None
        if reply:
            server.sendto(reply, peer)


main()
