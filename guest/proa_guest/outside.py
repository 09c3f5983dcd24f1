"""Ends TCP connections to the outside after a restore: their other ends are gone, and a reader would hang.

Through the kernel's own socket diagnosis (linux/sock_diag.h, linux/inet_diag.h; SOCK_DESTROY), in
every network namespace. Connections among containers, and those within a namespace, stay.

To look through the namespaces of containers takes an emulated guest a tenth of a second, for which a wake has
no time. They make no connection while they are frozen: so that is done before the guest is saved.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
# All but closed (7), listening (10), waiting for stragglers (6) and half open (12): net/tcp_states.h.
STATES = sum(1 << state for state in (1, 2, 3, 4, 5, 8, 9, 11))
_HEAD = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48s")
_ID_AT, _ID_SIZE = 4, 48  # struct inet_diag_sockid inside inet_diag_msg
OUTSIDE_CARD = "eth0"


Connection = tuple[int, bytes]  # its family, and its struct inet_diag_sockid


class Elsewhere:
    """Connections to the outside that were found in other network namespaces than this process'."""

    def __init__(self) -> None:
        self._engine = _engines()
        self._found: list[tuple[int, list[Connection]]] = []  # by descriptors of the namespaces

    def __len__(self) -> int:
        return sum(len(connections) for _, connections in self._found)

    def look(self) -> None:
        """Find all there are by now. The thread changes its namespace meanwhile. Raises OSError."""
        with _Visit() as visit:
            for path in _namespaces():
                try:
                    there = os.open(path, os.O_RDONLY)
                except OSError:
                    continue  # its process has ended
                self._found.append((there, []))
                visit.enter(there)
                self._found[-1][1].extend(_all_here())
        if self:
            inside = _Inside()  # as this process' own namespace sees it
            self._found = [(there, inside.without(connections)) for there, connections in self._found]

    def may_be_more(self) -> bool:
        """Whether the engine has made, or removed, a namespace of its own since."""
        return _engines() != self._engine

    def end(self) -> int:
        """End them; how many that were. The thread changes its namespace meanwhile. Raises OSError."""
        ended = 0
        with _Visit() as visit:
            for namespace, connections in self._found:
                if not connections:
                    continue
                visit.enter(namespace)
                asked = _diagnosis()
                try:
                    ended += sum(_destroy(asked, family, identity) for family, identity in connections)
                finally:
                    asked.close()
        return ended

    def close(self) -> None:
        found, self._found = self._found, []
        for namespace, _ in found:
            os.close(namespace)


class _Visit:
    """This thread's stay in other network namespaces, which ends where it began."""

    def __enter__(self) -> _Visit:
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        return self

    def enter(self, namespace: int) -> None:
        os.setns(namespace, os.CLONE_NEWNET)

    def __exit__(self, *_: object) -> None:
        try:
            os.setns(self._own, os.CLONE_NEWNET)
        finally:
            os.close(self._own)


def find_elsewhere() -> Elsewhere:
    """What there is by now. The thread changes its namespace meanwhile. Raises OSError."""
    found = Elsewhere()
    try:
        found.look()
    except OSError:
        found.close()
        raise
    return found


def end_here() -> int:
    """End the connections of this thread's namespace that lead outside; how many. Raises OSError."""
    connections = _all_here()
    if not connections:
        return 0  # to look for what is inside takes a guest that just woke longer than all else here
    asked = _diagnosis()
    try:
        return sum(_destroy(asked, *connection) for connection in _Inside().without(connections))
    finally:
        asked.close()


def _engines() -> list[str]:
    """The namespaces that the engine has made for containers; another list once it has made one more."""
    try:
        return sorted(os.listdir("/run/docker/netns"))  # noqa: PTH208
    except FileNotFoundError:
        return []


def _namespaces() -> list[str]:
    """One path for each network namespace that a process is in, but this thread's."""
    own = os.readlink("/proc/thread-self/ns/net")  # noqa: PTH115
    found: dict[str, str] = {}
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                path = f"/proc/{entry.name}/ns/net"
                try:
                    found.setdefault(os.readlink(path), path)  # noqa: PTH115
                except OSError:
                    continue  # it has ended
    found.pop(own, None)
    return list(found.values())


Routes = list[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str]]


def read_routes(ipv4: str, ipv6: str) -> Routes:
    """Networks and their cards from /proc/net/route and ipv6_route (proc(5))."""
    found: Routes = []
    for line in ipv4.splitlines()[1:]:
        words = line.split()
        address, mask = (int.from_bytes(bytes.fromhex(word), "little") for word in (words[1], words[7]))
        found.append((ipaddress.IPv4Network((address, mask.bit_count())), words[0]))
    for line in ipv6.splitlines():
        words = line.split()
        network = (int(words[0], 16), int(words[1], 16))
        found.append((ipaddress.IPv6Network(network, strict=False), words[9]))
    return found


def is_outside(address: str, routes: Routes, own: str) -> bool:
    """Whether the guest's first namespace leads to `address` through its card to the outside."""
    peer: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address)
    if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
        peer = peer.ipv4_mapped
    if peer.is_loopback or peer.is_unspecified or str(peer) == own:
        return False
    leads = [(network.prefixlen, card) for network, card in routes if peer in network]
    return not leads or max(leads)[1] in (OUTSIDE_CARD, "lo")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""  # a kernel without IPv6 has no such table


def _own_address() -> str:
    """The IPv4 address of the card to the outside, empty where it has none."""
    asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        # struct ifreq; SIOCGIFADDR of linux/sockios.h
        answer = fcntl.ioctl(asked, 0x8915, struct.pack("256s", OUTSIDE_CARD.encode()))
    except OSError:
        return ""
    finally:
        asked.close()
    return socket.inet_ntoa(answer[20:24])


class _Inside:
    """Which addresses are reached without leaving the guest, as its own namespace routes them."""

    def __init__(self) -> None:
        self._known: dict[str, bool] = {}
        self._own = _own_address()
        net = "/proc/thread-self/net"
        self._routes = read_routes(_read(f"{net}/route"), _read(f"{net}/ipv6_route"))

    def without(self, connections: list[Connection]) -> list[Connection]:
        """Those of them that lead outside."""
        return [connection for connection in connections if _peer(*connection) not in self]

    def __contains__(self, address: str) -> bool:
        if address not in self._known:
            self._known[address] = not is_outside(address, self._routes, self._own)
        return self._known[address]


def _diagnosis() -> socket.socket:
    asked = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
    # A timeout of Python's would ask before each message whether there is one.
    asked.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 10, 0))
    asked.bind((0, 0))
    return asked


def _all_here() -> list[Connection]:
    """The connections of this thread's namespace."""
    asked = _diagnosis()
    try:
        return [
            (family, identity)
            for family in (socket.AF_INET, socket.AF_INET6)
            for identity in _connections(asked, family)
        ]
    finally:
        asked.close()


def _peer(family: int, identity: bytes) -> str:
    size = 4 if family == socket.AF_INET else 16
    return socket.inet_ntop(family, identity[20 : 20 + size])


def _ask(asked: socket.socket, kind: int, flags: int, family: int, identity: bytes) -> None:
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, STATES, identity)
    asked.send(_HEAD.pack(_HEAD.size + len(body), kind, NLM_F_REQUEST | flags, 1, 0) + body)


def _connections(asked: socket.socket, family: int) -> Iterator[bytes]:
    """The identities (struct inet_diag_sockid) of a family's connections."""
    _ask(asked, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, bytes(_ID_SIZE))
    while True:
        for kind, body in _messages(asked.recv(1 << 16)):
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                raise _failure(body)
            yield body[_ID_AT : _ID_AT + _ID_SIZE]


def _destroy(asked: socket.socket, family: int, identity: bytes) -> int:
    """1 where it was ended, 0 where it had ended by itself."""
    _ask(asked, SOCK_DESTROY, NLM_F_ACK, family, identity)
    for kind, body in _messages(asked.recv(1 << 16)):
        if kind == NLMSG_ERROR and (error := _failure(body)).errno not in (0, errno.ENOENT):
            raise error
        return 1 if _failure(body).errno == 0 else 0
    return 0


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEAD.size <= len(data):
        size, kind, _, _, _ = _HEAD.unpack_from(data, at)
        if size < _HEAD.size:
            return
        yield kind, data[at + _HEAD.size : at + size]
        at += (size + 3) & ~3


def _failure(body: bytes) -> OSError:
    """struct nlmsgerr begins with the error, negative; 0 is an acknowledgement."""
    number = -int.from_bytes(body[:4], "little", signed=True)
    return OSError(number, os.strerror(number))
