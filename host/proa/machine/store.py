"""Machines on disk: `machines/NAME/machine.toml` (the user's) and `state.json` (ours).

machine.toml, version 1: `version`, `cpus`, `memory`, `disk` (sizes as text), `driver`,
`image`, and a table `daemon` with keys of the engine's daemon.json.
"""

from __future__ import annotations

import json
import tomllib
from typing import Any, Literal

import msgspec

from proa.model.errors import ProaError
from proa.model.machine import CONFIG_VERSION, MachineConfig, MachineOptions
from proa.model.names import check_name
from proa.model.problem import Problem
from proa.model.sizes import parse_size, show_size
from proa.system.files import explain, make_private_folder, read_bytes, remove_tree, write_atomic
from proa.system.locks import is_held
from proa.system.paths import MachinePaths, Places

STATE_VERSION = 1
MOST_CPUS = 512  # what q35 offers

_TEMPLATE = """\
# The machine {name!r}. Change what you like, then: proa restart {name}
version = {version}
cpus = {cpus}
memory = "{memory}"
# The most its disk may grow to; it can be made larger, never smaller.
disk = "{disk}"
driver = {driver}
# An image's id; empty: the newest there is.
image = {image}

# Keys of the engine's daemon.json, for example: registry-mirrors = ["https://mirror.example.com"]
[daemon]
"""


class _ConfigFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    cpus: int = MachineConfig.cpus
    memory: str = show_size(2 << 30)
    disk: str = show_size(60 << 30)
    driver: str = "qemu"
    image: str = ""
    daemon: dict[str, Any] = {}


class MachineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the last operation left: never the state itself, which is derived from facts."""

    version: int = STATE_VERSION
    intent: Literal["running", "stopped"] = "stopped"
    boot_id: str = ""  # of the host, when it was last started
    started_with: str = ""
    start_seconds: float | None = None
    problem: Problem | None = None  # why the last start failed


class MachineStore:
    """All machines of one installation."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def names(self) -> tuple[str, ...]:
        """Names of the machines there are, sorted; what is not a machine's folder is passed over."""
        try:
            entries = list(self._places.machines.iterdir())
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise explain(error, f"list {self._places.machines}") from error
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and _is_name(entry.name)))

    def exists(self, name: str) -> bool:
        return self._places.machine(name).folder.is_dir()

    def load(self, name: str) -> MachineConfig:
        """The config, checked. Raises ProaError `config-corrupt` naming the file and the place in it."""
        path = self._places.machine(name).config
        try:
            file = msgspec.convert(tomllib.loads(read_bytes(path).decode()), _ConfigFile)
            if file.version != CONFIG_VERSION:
                raise ValueError(f"version {file.version} is not {CONFIG_VERSION}: another Proa wrote it")
            config = MachineConfig(
                name=name,
                cpus=file.cpus,
                memory=parse_size(file.memory),
                disk=parse_size(file.disk),
                driver=file.driver,
                image=file.image,
                daemon=file.daemon,
            )
        except FileNotFoundError as error:
            raise _corrupt(path, "it is missing", name) from error
        except (ValueError, ProaError) as error:  # TOML, UTF-8 and msgspec errors are ValueErrors
            raise _corrupt(path, str(error).partition("\n")[0], name) from error
        if not 1 <= config.cpus <= MOST_CPUS:
            raise _corrupt(path, f"cpus is {config.cpus}, and must be 1 to {MOST_CPUS}", name)
        return config

    def plan(self, name: str, options: MachineOptions) -> MachineConfig:
        """The config that a new machine would have. Raises ProaError `bad-name`, `machine-exists`."""
        check_name(name)
        if self._places.machine(name).folder.exists():
            raise ProaError(
                "machine-exists",
                f"there is a machine {name!r} already",
                hint=f"to start it: proa start {name}",
            )
        chosen = {key: value for key, value in msgspec.structs.asdict(options).items() if value is not None}
        return MachineConfig(name=name, **chosen)

    def create(self, config: MachineConfig) -> None:
        """Make a machine's folder whole or not at all."""
        name, paths = config.name, self._places.machine(config.name)
        made = make_private_folder(self._places.machines / f".new-{name}")
        try:
            write_atomic(made / paths.config.name, _render(config).encode())
            try:
                made.rename(paths.folder)
            except OSError as error:
                raise explain(error, f"make the machine {name!r}") from error
        finally:
            remove_tree(made)

    def delete(self, name: str) -> None:
        """Remove the machine with its data. The folder first changes its name: half a machine is none."""
        paths = self._places.machine(name)
        doomed = self._places.machines / f".old-{name}"
        remove_tree(doomed)
        try:
            paths.folder.rename(doomed)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise explain(error, f"remove {paths.folder}") from error
        remove_tree(doomed)
        remove_tree(paths.runtime)
        for log in (paths.console_log, paths.console_log.with_name(paths.console_log.name + ".1")):
            log.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what a crash in `create` or `delete` left."""
        for entry in self._places.machines.glob(".*"):
            if entry.name.startswith((".new-", ".old-")):
                remove_tree(entry)

    def record(self, name: str) -> MachineRecord:
        """The last record; a missing, broken or newer one counts as none (it holds no user's data)."""
        try:
            record = msgspec.json.decode(read_bytes(self._places.machine(name).state), type=MachineRecord)
        except (FileNotFoundError, msgspec.MsgspecError, ProaError, UnicodeDecodeError):
            return MachineRecord()
        return record if record.version == STATE_VERSION else MachineRecord()

    def keep_record(self, name: str, record: MachineRecord) -> None:
        write_atomic(self._places.machine(name).state, msgspec.json.format(msgspec.json.encode(record)))

    def booted_image(self, name: str) -> str:
        """The guest image that the machine was booted with last; empty: none, or it cannot be told."""
        try:
            return read_bytes(self._places.machine(name).booted_image, 200).decode("ascii", "replace").strip()
        except (FileNotFoundError, ProaError):
            return ""

    def keep_booted_image(self, name: str, image: str) -> None:
        write_atomic(self._places.machine(name).booted_image, f"{image}\n".encode())

    def is_alive(self, name: str) -> bool:
        """True while a hypervisor of this machine holds its lock."""
        return is_held(self._places.machine(name).lock)

    def paths(self, name: str) -> MachinePaths:
        return self._places.machine(name)


def _render(config: MachineConfig) -> str:
    return _TEMPLATE.format(
        name=config.name,
        version=CONFIG_VERSION,
        cpus=config.cpus,
        memory=show_size(config.memory),
        disk=show_size(config.disk),
        # JSON's strings are TOML's basic strings.
        driver=json.dumps(config.driver),
        image=json.dumps(config.image),
    )


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except ProaError:
        return False
    return True


def _corrupt(path: object, why: str, name: str) -> ProaError:
    return ProaError(
        "config-corrupt",
        f"the config of {name!r} cannot be used: {path}",
        why=why,
        hint="mend the file; the machine's data is untouched",
    )
