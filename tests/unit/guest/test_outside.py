"""Which connections lead outside, from the guest's own routes; and the kernel's answers."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from proa_guest import outside
from proa_guest.outside import is_outside, read_routes

IPV4 = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0202000A	0003	0	0	0	00000000	0	0	0
eth0	0002000A	00000000	0001	0	0	0	00FFFFFF	0	0	0
docker0	000011AC	00000000	0001	0	0	0	0000FFFF	0	0	0
br-1234	000012AC	00000000	0001	0	0	0	0000FFFF	0	0	0
"""
ZERO = "0" * 32
IPV6 = f"""\
fd{"0" * 30} 40 {ZERO} 00 {ZERO} 00000100 00000001 00000000 00000001  docker0
{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo
"""


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("10.0.2.2", True),
        ("93.184.216.34", True),
        ("::ffff:93.184.216.34", True),
        ("2606:2800::1", True),
        ("172.17.0.3", False),
        ("172.18.255.1", False),
        ("::ffff:172.17.0.3", False),
        ("172.19.0.1", True),
        ("fd00::5", False),
        ("127.0.0.1", False),
        ("::1", False),
        ("10.0.2.15", False),
        ("0.0.0.0", False),
    ],
)
def test_the_routes_say_what_is_outside(peer: str, expected: bool) -> None:
    assert is_outside(peer, read_routes(IPV4, IPV6), "10.0.2.15") is expected


def test_without_any_route_everything_is_outside() -> None:
    assert is_outside("172.17.0.3", read_routes("head\n", ""), "")


def test_the_kernels_messages_are_taken_apart() -> None:
    first = struct.pack("=IHHII", 16 + 5, outside.SOCK_DIAG_BY_FAMILY, 0, 1, 0) + b"12345" + bytes(3)
    last = struct.pack("=IHHII", 16 + 4, outside.NLMSG_DONE, 0, 1, 0) + bytes(4)
    assert list(outside._messages(first + last)) == [(20, b"12345"), (3, bytes(4))]
    assert list(outside._messages(b"\0" * 64)) == [], "a length of nothing ends it"
    refused = outside._failure(struct.pack("=i", -errno.EOPNOTSUPP))
    assert refused.errno == errno.EOPNOTSUPP


def test_the_peer_of_a_connection() -> None:
    four = struct.pack(">HH", 1, 2) + bytes(16) + socket.inet_aton("1.2.3.4") + bytes(12 + 4 + 8)
    assert len(four) == 48
    assert outside._peer(socket.AF_INET, four) == "1.2.3.4"
