"""Pure: from the engine's list of containers to what the host binds. The list is the guest's, so hostile."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import msgspec

MOST_BINDINGS = 4096  # more than any desktop publishes: what a hostile list could make us bind


class _Port(msgspec.Struct, frozen=True, rename="pascal"):
    private_port: int
    type: str = "tcp"
    public_port: int = 0
    IP: str = msgspec.field(default="", name="IP")


class _Network(msgspec.Struct, frozen=True):
    IPAddress: str = ""
    GlobalIPv6Address: str = ""


class _Networks(msgspec.Struct, frozen=True):
    Networks: dict[str, _Network] | None = None


class _Container(msgspec.Struct, frozen=True):
    """A row of GET /containers/json (Docker Engine API 1.45)."""

    Id: str
    Names: list[str] | None = None
    Ports: list[_Port] | None = None
    NetworkSettings: _Networks | None = None


@dataclass(frozen=True)
class Key:
    """What the host binds."""

    host_ip: str
    host_port: int
    protocol: str


def overlap(one: Key, other: Key) -> bool:
    """True where both bind one port of one address; an unspecified address is all of its family."""
    same_family = (":" in one.host_ip) == (":" in other.host_ip)
    everywhere = {one.host_ip, other.host_ip} & {"0.0.0.0", "::"}
    return (
        (one.host_port, one.protocol) == (other.host_port, other.protocol)
        and same_family
        and (one.host_ip == other.host_ip or bool(everywhere))
    )


@dataclass(frozen=True)
class Binding:
    """A published port: where the host listens, and where in the guest it leads, best first."""

    key: Key
    container: str  # name
    container_id: str
    container_port: int
    targets: tuple[str, ...]


def wanted(containers: object) -> dict[Key, Binding]:
    """Bindings by what they bind. Raises msgspec.ValidationError where the list is not one."""
    found: dict[Key, Binding] = {}
    for container in msgspec.convert(containers, list[_Container]):
        for port in container.Ports or ():
            binding = _binding(container, port)
            if binding is not None and len(found) < MOST_BINDINGS:
                found.setdefault(binding.key, binding)
    return found


def _binding(container: _Container, port: _Port) -> Binding | None:
    if not (0 < port.public_port < 65536 and 0 < port.private_port < 65536):
        return None  # exposed, not published
    host_ip = _address(port.IP or "0.0.0.0")
    if host_ip is None:
        return None
    name = (container.Names or [container.Id[:12]])[0].lstrip("/")
    key = Key(host_ip, port.public_port, port.type if port.type in ("tcp", "udp", "sctp") else "tcp")
    return Binding(key, name[:128], container.Id[:64], port.private_port, _targets(container, port, host_ip))


def _targets(container: _Container, port: _Port, host_ip: str) -> tuple[str, ...]:
    """The container's own addresses first: nothing stands between; then where the engine publishes it."""
    targets = []
    networks = container.NetworkSettings.Networks if container.NetworkSettings else None
    for network in (networks or {}).values():
        address = _address(network.IPAddress)
        if address is not None:
            targets.append(target(address, port.private_port))
    published = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host_ip, host_ip)
    targets.append(target(published, port.public_port))
    return tuple(dict.fromkeys(targets))


def target(address: str, port: int) -> str:
    return f"tcp:[{address}]:{port}" if ":" in address else f"tcp:{address}:{port}"


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


@dataclass(frozen=True)
class Bind:
    binding: Binding


@dataclass(frozen=True)
class Retarget:
    """The same port of the host leads elsewhere now: connections that are open stay."""

    binding: Binding


@dataclass(frozen=True)
class Unbind:
    key: Key


def plan(current: dict[Key, Binding], want: dict[Key, Binding]) -> list[Bind | Retarget | Unbind]:
    """What leads from the one to the other; what goes away goes first, so that its port is free."""
    steps: list[Bind | Retarget | Unbind] = [Unbind(key) for key in current if key not in want]
    for key, binding in want.items():
        if key not in current:
            steps.append(Bind(binding))
        elif current[key] != binding:
            steps.append(Retarget(binding))
    return steps
