"""What init sets up before any service starts: mounts, kernel settings, config, network."""

from __future__ import annotations

import json
import os

from proa_guest.commands import CommandFailed, run
from proa_guest.disk import MOUNT

FW_CFG = "/sys/firmware/qemu_fw_cfg/by_name/opt/io.proa/config/raw"
CONFIG = "/run/proa/config.json"
CONFIG_VERSION = 1
NETNS = "link"
BEAT = "/run/proa/agent.beat"  # touched by the guest agent for as long as it is well
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
RANDOMISE = "/proc/sys/kernel/randomize_va_space"
_MOUNTS = (
    # kind, place, options
    ("proc", "/proc", "nosuid,nodev,noexec"),
    ("devpts", "/dev/pts", "mode=620,ptmxmode=666,gid=5"),
    ("tmpfs", "/dev/shm", "mode=1777,nosuid,nodev"),
    ("mqueue", "/dev/mqueue", "nosuid,nodev,noexec"),
    ("cgroup2", "/sys/fs/cgroup", "nsdelegate"),
)
_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv4/conf/all/rp_filter": "2",
    # databases and search engines refuse to start below this; Docker Desktop has it so too
    "vm/max_map_count": "262144",
    "fs/inotify/max_user_watches": "1048576",
    "fs/inotify/max_user_instances": "8192",
    "fs/file-max": "1048576",
    "net/core/somaxconn": "4096",
    "kernel/pid_max": "4194304",
    "kernel/panic": "-1",
}
_CONTROLLERS = "+cpuset +cpu +io +memory +hugetlb +pids"


class SetupFailed(Exception):
    """The guest cannot be set up; the message is for the console."""


def _write(path: str, text: str, mode: int = 0o644) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def mounts() -> None:
    """What the initrd has not mounted yet."""
    for folder in ("/run/proa", "/run/lock", "/run/netns", "/var/log/proa"):
        os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103
    for kind, place, options in _MOUNTS:
        os.makedirs(place, exist_ok=True)  # noqa: PTH103
        run(["mount", "-t", kind, "-o", options, kind, place], timeout=20)
    for link, target in (("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "/proc/self/fd/0")):
        if not os.path.lexists(link):
            os.symlink(target, link)  # noqa: PTH211


def kernel() -> list[str]:
    """Modules and settings; what could not be set, for the log."""
    failed = []
    with open("/usr/lib/proa/modules", encoding="ascii") as names:  # noqa: PTH123
        try:
            run(["modprobe", "-a", *names.read().split()], timeout=60)
        except CommandFailed as error:
            failed.append(str(error))
    for name, value in _SYSCTLS.items():
        try:
            _write(f"/proc/sys/{name}", value)
        except OSError as error:
            failed.append(f"{name}: {error.strerror}")
    for controller in _CONTROLLERS.split():
        try:
            _write("/sys/fs/cgroup/cgroup.subtree_control", controller)
        except OSError as error:
            failed.append(f"cgroup {controller}: {error.strerror}")
    return failed


def read_config(text: str) -> dict[str, object]:
    """The host's config, checked as far as init uses it. Raises SetupFailed."""
    try:
        config = json.loads(text)
    except ValueError as error:
        raise SetupFailed(f"the machine's config is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("version") != CONFIG_VERSION:
        raise SetupFailed(f"the machine's config is not of version {CONFIG_VERSION}")
    for name in ("link", "network", "daemon"):
        if not isinstance(config.get(name), dict):
            raise SetupFailed(f"the machine's config has no table {name!r}")
    if not isinstance(config.get("certificates", ""), str):  # later than version 1's first hosts
        raise SetupFailed("the machine's config has certificates that are no text")
    return config


def trust(certificates: str, bundle: str = AUTHORITIES) -> None:
    """Add certificates (PEM) to the bundle that everything in the guest trusts; the root forgets it."""
    if certificates:
        with open(bundle, "a", encoding="utf-8") as file:  # noqa: PTH123
            file.write("\n" + certificates)


def randomise_addresses() -> bool:
    """Turn address randomising on; True if the host had turned it off, as it does under emulation."""
    with open(RANDOMISE, encoding="ascii") as setting:  # noqa: PTH123
        was_off = setting.read().strip() == "0"
    if was_off:
        _write(RANDOMISE, "2")
    return was_off


def take_config() -> dict[str, object]:
    """Read the config from the hypervisor, keep it for the guest agent, and close that way again."""
    try:
        with open(FW_CFG, encoding="utf-8") as raw:  # noqa: PTH123
            config = read_config(raw.read())
    except OSError as error:
        raise SetupFailed(f"the machine's config cannot be read: {error.strerror}") from error
    # The secret is in it: no container, privileged or not, is to find it where it came from.
    run(["modprobe", "-r", "qemu_fw_cfg"], timeout=20, good=None)
    link = config["link"]
    assert isinstance(link, dict)
    agent = {
        "link": {**link, "netns": f"/run/netns/{NETNS}"},
        "engine_socket": "/run/docker.sock",
        "init_state": "/run/proa/init.json",
        "logs": "/var/log/proa",
        "beat": BEAT,
        "disk": MOUNT,
    }
    _write(CONFIG, json.dumps(agent), 0o600)
    os.makedirs("/etc/docker", exist_ok=True)  # noqa: PTH103
    _write("/etc/docker/daemon.json", json.dumps(config["daemon"]), 0o600)
    trust(str(config.get("certificates", "")))
    return config


def interface(mac: str) -> str:
    """The name of the network card with that address. Raises SetupFailed."""
    for name in os.listdir("/sys/class/net"):  # noqa: PTH208
        with open(f"/sys/class/net/{name}/address", encoding="ascii") as address:  # noqa: PTH123
            if address.read().strip() == mac:
                return name
    raise SetupFailed(f"there is no network card {mac}")


def link_network(link: dict[str, object]) -> None:
    """The link's card, in a network namespace of its own where no container reaches it."""
    card = interface(str(link["mac"]))
    _batch([f"netns add {NETNS}", f"link set dev {card} netns {NETNS} name link0"])
    address = f"{link['address']}/{link['prefix']}"
    _batch([f"address add {address} dev link0", "link set dev link0 up", "link set dev lo up"], "-n", NETNS)


def network(config: dict[str, object], name: str) -> None:
    """The guest's own card, its names and name servers."""
    card = interface(str(config["mac"]))
    address, gateway = f"{config['address']}/{config['prefix']}", config["gateway"]
    _batch(
        [
            "link set dev lo up",
            f"link set dev {card} name eth0",
            f"address add {address} dev eth0",
            "link set dev eth0 up",
            f"route add default via {gateway}",
        ]
    )
    servers = config["dns"]
    assert isinstance(servers, list)
    _write("/etc/resolv.conf", "".join(f"nameserver {server}\n" for server in servers))
    hostname = f"proa-{name}" if name != "default" else "proa"
    _write(
        "/etc/hosts",
        f"127.0.0.1 localhost {hostname}\n::1 localhost ip6-localhost\n"
        f"{gateway} host.docker.internal gateway.docker.internal\n",
    )
    _write("/etc/hostname", hostname + "\n")
    _write("/proc/sys/kernel/hostname", hostname)


def _batch(lines: list[str], *options: str) -> None:
    """Several `ip` commands for the price of one process."""
    path = "/run/proa/ip.batch"
    _write(path, "\n".join(lines) + "\n", 0o600)
    run(["ip", *options, "-batch", path], timeout=20)
