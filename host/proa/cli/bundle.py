"""What `proa diagnose` puts together: files, what the agent and the engine say, facts of this computer.

Layout of the archive, all below `proa-diagnose/`:

    README.txt                   what this is, and what could not be collected
    versions.json  host.json  doctor.json  status.json  docker-config.json
    logs/                        the agent's log; the machine's console and what was kept of its guest's logs
    machines/NAME/               machine.json (what machine.toml says; machine.toml where it cannot be read),
                                 state.json, files.json (names, sizes, modes)
    run/NAME/                    qemu.log, hypervisor.json, files.json
    images/ID/manifest.json
    guest/                       engine.log, containerd.log, guest.log, kernel.log, init.json, disk.txt
    docker/                      info.json, version.json, ps.json, df.json
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import platform
import stat
import sys
import tarfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from proa import __version__
from proa.agent.client import ask_socket
from proa.cli.common import machine_names
from proa.cli.environment import Surroundings, docker_config, examine
from proa.cli.guest_command import output_of
from proa.cli.masking import MASKED, Mask, secrets_in
from proa.model.api import LOG_SOURCES
from proa.model.errors import ProaError
from proa.system.locks import is_held
from proa.system.memory import available_memory, free_disk, total_memory

ROOT = "proa-diagnose"
MOST_LOG = 1 << 20  # bytes of one log, from its end
MOST_STATE = 256 << 10  # bytes of one file that is not a log
MOST_LINES = 5000  # of a log that is read through the agent
ASK_TIMEOUT = 15.0
GUEST_FILES = {
    "kernel.log": ("dmesg",),
    "init.json": ("cat", "/run/proa/init.json"),
    "disk.txt": ("df", "-h"),
}
DOCKER = {
    "info.json": "/info",
    "version.json": "/version",
    "ps.json": "/containers/json?all=1",
    "df.json": "/system/df",
}
_DOCKER_KEYS = ("currentContext", "credsStore", "credHelpers", "auths", "proxies")
_OWN_VARIABLES = (
    "PROA_",
    "DOCKER_",
    "COMPOSE_",
    "XDG_RUNTIME_DIR",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
    "LANG",
)

Say = Callable[[str], None]


@dataclass
class Bundle:
    """Entries by name, masked on their way in, and what could not be had."""

    mask: Mask
    entries: dict[str, bytes] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def add_text(self, name: str, text: str) -> None:
        self.entries[name] = self.mask.text(text).encode()

    def add_data(self, name: str, value: object) -> None:
        """Plain data; anything else of ours goes through msgspec first."""
        plain = msgspec.to_builtins(value)
        self.entries[name] = json.dumps(self.mask.data(plain), indent=1, ensure_ascii=False).encode() + b"\n"

    def add_json(self, name: str, content: bytes) -> None:
        """JSON as somebody else wrote it; what is none is masked as text."""
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            self.add_text(name, content.decode("utf-8", "replace"))
        else:
            self.add_data(name, value)

    def lack(self, name: str, why: object) -> None:
        self.missing.append(self.mask.text(f"{name}: {why}"))

    def archive(self, now: float) -> bytes:
        """The bundle as a tar.gz."""
        out = io.BytesIO()
        with (
            gzip.GzipFile(fileobj=out, mode="wb", mtime=now) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name, content in sorted({"README.txt": self._readme(now), **self.entries}.items()):
                info = tarfile.TarInfo(f"{ROOT}/{name}")
                info.size, info.mtime, info.mode = len(content), int(now), 0o600
                archive.addfile(info, io.BytesIO(content))
        return out.getvalue()

    def _readme(self, now: float) -> bytes:
        made = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(now))
        lacking = "\n".join(f"  {line}" for line in self.missing) or "  nothing"
        return (
            f"What `proa diagnose` of Proa {__version__} collected on {made}.\n\n"
            "Keys, tokens, passwords, environment values and labels of containers are replaced by ***.\n"
            "Look through it before you send it: names of your machines, containers, images and folders\n"
            f"are in it.\n\nNot collected:\n{lacking}\n"
        ).encode()


def known_secrets(around: Surroundings) -> set[str]:
    """The secrets that this installation and this user have, to be masked wherever they stand."""
    found: set[str] = set()
    for name in around.machine_names():
        paths = around.places.machine(name)
        key = _read(paths.link_key, MOST_STATE)
        if key:
            found |= {key.hex(), base64.b64encode(key).decode(), key.decode("latin-1")}
        for path, parse in ((paths.guest_config, json.loads), (paths.config, tomllib.loads)):
            content = _parsed(path, parse)
            found |= set(secrets_in(content))
    found |= set(secrets_in(docker_config(around.environ)))
    found |= set(secrets_in(dict(around.environ)))
    return found


def collect(around: Surroundings, say: Say) -> Bundle:
    """All there is, whatever is broken. Never raises ProaError: what cannot be had is named in README.txt."""
    bundle = Bundle(Mask(known_secrets(around)))
    say("checking this computer and the machine")
    bundle.add_data("doctor.json", examine(around))
    bundle.add_data("status.json", around.machines)
    if around.client is None:
        bundle.lack("status.json", around.problem)
    bundle.add_data("versions.json", _versions(around))
    bundle.add_data("host.json", _host(around))
    bundle.add_data("docker-config.json", _of_use(docker_config(around.environ)))
    say("reading logs and settings")
    _add_logs(bundle, around)
    for name in machine_names(around.places.machines):
        _add_machine(bundle, around, name)
    for manifest in sorted(around.places.images.glob("*/manifest.json")):
        _add_file(bundle, f"images/{manifest.parent.name}/manifest.json", manifest)
    status = around.status
    if status is not None and (status.pid is not None or is_held(around.places.machine(around.name).lock)):
        say("asking the guest and the engine")
        _add_answers(bundle, around)
    elif around.client is None:
        say("asking the engine")
        _add_answers(bundle, around)
    else:
        bundle.lack("guest/, docker/", f"the machine is {status.state if status else 'absent'}")
    return bundle


def _add_answers(bundle: Bundle, around: Surroundings) -> None:
    """The guest and the engine are asked at once, each question bounded."""
    jobs = {f"docker/{name}": _engine_question(around, target) for name, target in DOCKER.items()}
    jobs |= {f"guest/{name}": _guest_question(around, argv) for name, argv in GUEST_FILES.items()}
    jobs |= {
        f"guest/{source}.log": _log_question(around, source)
        for source in LOG_SOURCES
        if source not in ("agent", "console")
    }
    with ThreadPoolExecutor(max_workers=len(jobs), thread_name_prefix="ask") as pool:
        asked = {name: pool.submit(job) for name, job in jobs.items()}
        for name, work in asked.items():
            try:
                content = work.result()
            except (ProaError, OSError) as error:
                bundle.lack(name, error)
                continue
            if name.endswith(".json"):
                bundle.add_json(name, content)
            else:
                bundle.add_text(name, content[-MOST_LOG:].decode("utf-8", "replace"))


def _engine_question(around: Surroundings, target: str) -> Callable[[], bytes]:
    return lambda: ask_socket(around.places.machine(around.name).engine_socket, target, ASK_TIMEOUT)


def _guest_question(around: Surroundings, argv: tuple[str, ...]) -> Callable[[], bytes]:
    def ask() -> bytes:
        if around.client is None:
            raise around.problem or ProaError("agent-gone", "there is no agent")
        return output_of(around.client, around.name, argv, timeout=ASK_TIMEOUT, most=MOST_LOG)

    return ask


def _log_question(around: Surroundings, source: str) -> Callable[[], bytes]:
    def ask() -> bytes:
        if around.client is None:
            raise around.problem or ProaError("agent-gone", "there is no agent")
        return b"".join(around.client.logs(around.name, source, MOST_LINES, False))

    return ask


def _add_logs(bundle: Bundle, around: Surroundings) -> None:
    """Of the agent, and of the machine that is asked about; rotated ones too."""
    places, name = around.places, around.name
    stems = [places.agent_log, places.machine(name).console_log]
    stems += [places.machine(name).kept_log(source) for source in LOG_SOURCES[2:]]
    stems.append(places.machine(name).shares_log)
    for stem in stems:
        for path in sorted(stem.parent.glob(f"{stem.name}*")):
            _add_file(bundle, f"logs/{path.name}", path, most=MOST_LOG)
    _add_file(bundle, f"run/{name}/qemu.log", places.machine(name).hypervisor_log, most=MOST_LOG)


def _add_machine(bundle: Bundle, around: Surroundings, name: str) -> None:
    paths = around.places.machine(name)
    content = _parsed(paths.config, tomllib.loads)
    if content is not None:
        bundle.add_data(f"machines/{name}/machine.json", content)
    else:
        _add_file(bundle, f"machines/{name}/machine.toml", paths.config)
    _add_file(bundle, f"machines/{name}/state.json", paths.state)
    hypervisor = paths.runtime / "hypervisor.json"
    if hypervisor.exists():
        _add_file(bundle, f"run/{name}/hypervisor.json", hypervisor)
    bundle.add_data(f"machines/{name}/files.json", list(_listing(paths.folder)))
    bundle.add_data(f"run/{name}/files.json", list(_listing(paths.runtime)))


def _listing(folder: Path) -> Iterator[dict[str, object]]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        try:
            found = entry.lstat()
        except OSError:
            continue
        yield {
            "name": entry.name,
            "mode": stat.filemode(found.st_mode),
            "owner": found.st_uid,
            "size": found.st_size,
            "changed": int(found.st_mtime),
        }


def _add_file(bundle: Bundle, name: str, path: Path, most: int = MOST_STATE) -> None:
    content = _read(path, most)
    if content is None:
        bundle.lack(name, f"{path} cannot be read" if path.exists() else f"{path} is not there")
    elif name.endswith(".json"):
        bundle.add_json(name, content)
    else:
        bundle.add_text(name, content.decode("utf-8", "replace"))


def _read(path: Path, most: int) -> bytes | None:
    """The last bytes of a plain file, whole lines only where it was cut; None where it is none."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return None
        with path.open("rb") as file:
            file.seek(max(0, found.st_size - most))
            content = file.read(most)
    except OSError:
        return None
    # A line that was cut could hold the rest of a secret whose name is gone.
    return content if found.st_size <= most else content.partition(b"\n")[2]


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    content = _read(path, MOST_STATE)
    try:
        return parse(content.decode()) if content is not None else None
    except (ValueError, RecursionError):
        return None


def _versions(around: Surroundings) -> dict[str, object]:
    return {
        "proa": __version__,
        "python": sys.version,
        "agent": around.info,
        "packages": _packages(),
    }


def _packages() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in ("aiohttp", "click", "h11", "msgspec", "platformdirs", "qemu.qmp", "rich"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _host(around: Surroundings) -> dict[str, object]:
    places = around.places
    device = Path("/dev/kvm")
    return {
        "system": platform.platform(),
        "release": _release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "memory": {"total": total_memory(), "available": available_memory()},
        "kvm": {"there": device.exists(), "usable": os.access(device, os.R_OK | os.W_OK)},
        "folders": {
            kind: {"path": str(path), "free": free_disk(path)}
            for kind, path in (("data", places.data), ("cache", places.cache), ("run", places.run))
        },
        "variables": _variables(around.environ),
    }


def _of_use(config: dict[str, object]) -> dict[str, object]:
    """The Docker CLI's config: what it is known to say; of all else that it is there."""
    return {key: value if key in _DOCKER_KEYS else MASKED for key, value in config.items()}


def _release() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    """What steers Proa and Docker; values under telling names are masked with all the rest."""
    return {
        name: value
        for name, value in sorted(environ.items())
        if name.startswith(_OWN_VARIABLES) or name.lower().endswith("_proxy")
    }
