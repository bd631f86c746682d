#!/usr/bin/env python3
"""Makes the way of this node's IPv4 packets longer: delay.py MILLISECONDS.

For kernels without netem. The default route leads into a tun device; each packet read from it
leaves through eth0 after the delay. Prints `ready`, then works until it is ended.
"""

import collections
import fcntl
import os
import re
import select
import socket
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
NAME, OUT = "delay0", "eth0"


def ip(*arguments):
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def main():
    delay = int(sys.argv[1]) / 1000
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", NAME.encode(), IFF_TUN | IFF_NO_PI))
    route = ip("-4", "route", "show", "default")
    gateway = re.search(r"via (\S+)", route).group(1)
    source = re.search(r"inet ([0-9.]+)", ip("-4", "address", "show", "dev", OUT)).group(1)
    subprocess.run(["ping", "-c", "1", "-W", "2", gateway], check=True, capture_output=True)
    neighbour = ip("neighbour", "show", gateway, "dev", OUT)
    to = bytes.fromhex(re.search(r"lladdr (\S+)", neighbour).group(1).replace(":", ""))
    for name in ("all", OUT):
        with open(f"/proc/sys/net/ipv4/conf/{name}/rp_filter", "w") as setting:
            setting.write("0")
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind((OUT, 0))
    own = raw.getsockname()[4]
    ip("link", "set", NAME, "up", "mtu", "1500")
    ip("route", "replace", "default", "dev", NAME, "src", source)
    print("ready", flush=True)
    queue = collections.deque()
    while True:
        wait = max(0, queue[0][0] - time.monotonic()) if queue else None
        if select.select([tun], [], [], wait)[0]:
            packet = os.read(tun, 65536)
            if packet[0] >> 4 == 4:
                queue.append((time.monotonic() + delay, to + own + b"\x08\x00" + packet))
        while queue and queue[0][0] <= time.monotonic():
            raw.send(queue.popleft()[1])


main()
