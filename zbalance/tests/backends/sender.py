# Sends frames on an interface: one line of hexadecimal digits each. An empty line asks for "sent", which comes when
# the kernel has carried all of them to their receivers.
#
# Everything is sent from one processor, and 32 frames at once at most, so that a frame on a pair of interfaces of its
# own arrives after what was sent before it.
import fcntl, os, socket, struct, sys

kind, interface = sys.argv[1:]
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def packet(interface, protocol=0):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind((interface, protocol))
    return s


if kind == "tap":
    IFF_TAP, IFF_NO_PI, TUNSETIFF = 2, 0x1000, 0x400454CA
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", interface.encode(), IFF_TAP | IFF_NO_PI))
    send = lambda frame: os.write(tap, frame)
else:
    send = packet(interface).send

probe, probed = packet("probe0"), packet("probe1", 0x88B5)
probed.settimeout(60)
arrived = bytes.fromhex("020000000002 020000000001 88b5") + b"the ones before have arrived"


def barrier():
    probe.send(arrived)
    assert probed.recv(100) == arrived


print("ready", flush=True)
pending = 0
for line in sys.stdin:
    if line == "\n" or pending == 32:
        barrier()
        pending = 0
    if line == "\n":
        print("sent", flush=True)
    else:
        send(bytes.fromhex(line))
        pending += 1
