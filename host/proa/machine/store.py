"""Machines on disk: `machines/NAME/machine.toml` (the user's) and `state.json` (ours).

machine.toml, version 1: `version`, `cpus`, `memory`, `disk` (sizes as text), `driver`,
`image`, a table `daemon` with keys of the engine's daemon.json, and what else is in the table of
settings (proa.model.settings), a dot in a key being a table.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from proa.machine.config_file import edit
from proa.model import settings
from proa.model.api import LOG_SOURCES
from proa.model.errors import ProaError
from proa.model.machine import CONFIG_VERSION, MachineConfig, MachineOptions
from proa.model.names import check_name
from proa.model.problem import Problem
from proa.model.sizes import parse_size, show_size
from proa.system.files import explain, make_private_folder, read_bytes, remove_tree, write_atomic
from proa.system.locks import is_held
from proa.system.paths import MachinePaths, Places

STATE_VERSION = 1

_TEMPLATE = """\
# The machine {name!r}. Change what you like, then: proa restart {name}
# All there is to set: proa config list
version = {version}
cpus = {cpus}
memory = "{memory}"
# The most its disk may grow to; it can be made larger, never smaller.
disk = "{disk}"
driver = {driver}
# An image's id; empty: the newest there is.
image = {image}

# It is suspended after this time without use ("off": never), and wakes with the next request.
# [idle]
# after = "5m"
# with_containers = false

# Keys of the engine's daemon.json, for example: registry-mirrors = ["https://mirror.example.com"]
[daemon]
"""


_FIELDS = frozenset(("cpus", "memory", "disk", "driver", "image", "daemon"))
_SIZES = frozenset(("memory", "disk"))


class MachineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the last operation left: never the state itself, which is derived from facts."""

    version: int = STATE_VERSION
    intent: Literal["running", "stopping", "stopped"] = "stopped"  # what a person last asked for
    boot_id: str = ""  # of the host, when it was last started or stopped
    started_with: str = ""
    start_seconds: float | None = None
    problem: Problem | None = None  # why the last start failed
    woken_by: str = ""  # what woke it last
    fingerprint: dict[str, str] = {}  # what it was booted with, as far as a memory image depends on it


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
        return self._read(name, self.text(name))

    def text(self, name: str) -> str:
        """What is in `machine.toml`. Raises ProaError `config-corrupt`."""
        path = self._places.machine(name).config
        try:
            return read_bytes(path).decode()
        except FileNotFoundError as error:
            raise _corrupt(path, "it is missing", name) from error
        except UnicodeDecodeError as error:
            raise _corrupt(path, str(error), name) from error

    def _read(self, name: str, text: str) -> MachineConfig:
        path = self._places.machine(name).config
        try:
            content = tomllib.loads(text)
            version = content.pop("version", None)
            if version != CONFIG_VERSION or isinstance(version, bool):
                raise ValueError(f"version {version} is not {CONFIG_VERSION}: another Proa wrote it")
            found = settings.read(content)
        except ProaError as error:
            why = f"{error.message}: {error.why or error.hint}"
            raise _corrupt(path, why.partition("\n")[0], name) from error
        except (ValueError, RecursionError) as error:  # TOML's errors are ValueErrors
            raise _corrupt(path, str(error).partition("\n")[0], name) from error
        fields = {key: found.pop(key) for key in _FIELDS.intersection(found)}
        for key in _SIZES.intersection(fields):
            fields[key] = parse_size(fields[key])
        return MachineConfig(name=name, values=found, **fields)

    def set(self, name: str, changes: Mapping[str, Any]) -> tuple[str, MachineConfig]:
        """The text and the config that dotted keys with new values (None: taken away) would give.

        Nothing is written: `keep_text` does that. Raises ProaError.
        """
        before = self.text(name)
        self._read(name, before)
        after = edit(before, changes)
        return after, self._read(name, after)

    def keep_text(self, name: str, text: str) -> None:
        write_atomic(self._places.machine(name).config, text.encode())

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
        kept = [paths.kept_log(source) for source in LOG_SOURCES]
        for log in (
            paths.console_log,
            paths.console_log.with_name(paths.console_log.name + ".1"),
            paths.shares_log,
            *kept,
        ):
            log.unlink(missing_ok=True)

    def sweep(self) -> list[str]:
        """Remove what a crash in `create` or `delete` left, and say what that was."""
        left = [
            entry for entry in self._places.machines.glob(".*") if entry.name.startswith((".new-", ".old-"))
        ]
        # A folder with neither config nor disk holds nothing of anybody's.
        left += [paths.folder for paths in map(self._places.machine, self.names()) if _is_hollow(paths)]
        for entry in left:
            remove_tree(entry)
        return [str(entry) for entry in left]

    def mend(self, name: str) -> bool:
        """Give a machine with a disk but without a config the defaults; True if that was needed."""
        paths = self._places.machine(name)
        if paths.config.exists() or not paths.data_disk.exists():
            return False
        write_atomic(paths.config, _render(MachineConfig(name=name)).encode())
        return True

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


def _is_hollow(paths: MachinePaths) -> bool:
    return not (paths.config.exists() or paths.data_disk.exists() or is_held(paths.lock))


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
