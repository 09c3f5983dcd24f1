"""What `proa reset` removes and what it leaves alone: decided from what is on disk, before anything goes.

Only what is provably Proa's goes: a folder that Proa made (it carries a mark), or, in a folder that was
there before, single entries that only Proa makes. Links are never followed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from proa.system.paths import OURS, Places

_MACHINE_SIGNS = ("machine.toml", "state.json", "data.qcow2")
_OF_MACHINE = "console|engine|containerd|guest|agent|shares"
_LOG = re.compile(rf"^(agent|[a-z0-9][a-z0-9_.-]{{0,39}}-({_OF_MACHINE}))\.log(\.\d+)?$")


@dataclass(frozen=True)
class Item:
    """One thing that goes. `size` is what it takes on the disk, in bytes."""

    path: Path
    what: str
    size: int


@dataclass(frozen=True)
class Kept:
    """One thing that stays although it lies where Proa's things lie, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class Plan:
    items: tuple[Item, ...]
    kept: tuple[Kept, ...]
    folders: tuple[Path, ...]  # removed at the end, if they are empty then

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)


def plan(places: Places, *, keep_data: bool, user: int | None) -> Plan:
    """What goes. `user` is the user's id, None where files have no owners of that kind."""
    items: list[Item] = []
    kept: list[Kept] = []
    sources: list[tuple[Path, str, Callable[[Path], str]]] = [
        (places.run, "sockets and locks", _runtime_entry),
        (places.cache, "what can be found out or fetched again", _cache_entry),
        (places.logs, "logs", _log_entry),
    ]
    if not keep_data:
        sources = [
            (places.machines, "machines", _machine_entry),
            (places.images, "guest images", _image_entry),
            (places.keys, "keys of guest images", _key_entry),
            *sources,
        ]
    for folder, what, entry_is in sources:
        _plan_folder(folder, what, entry_is, user, items, kept)
    folders = [] if keep_data else [places.data, *([places.home] if places.home else [])]
    return Plan(tuple(items), tuple(kept), tuple(dict.fromkeys(folders)))


def _plan_folder(
    folder: Path,
    what: str,
    entry_is: Callable[[Path], str],
    user: int | None,
    items: list[Item],
    kept: list[Kept],
) -> None:
    found = _lstat(folder)
    if found is None:
        return
    if reason := _not_ours(found, user):
        kept.append(Kept(folder, reason))
        return
    entries = _entries(folder)
    if _is_marked(folder):
        if what in ("machines", "guest images"):
            # Named one by one: they are what a person would miss.
            named = [entry for entry in entries if entry.name != OURS and entry_is(entry)]
            items += [Item(entry, entry_is(entry), disk_usage(entry)) for entry in named]
            items.append(Item(folder, f"the rest of the folder of {what}", _rest(folder, named)))
        else:
            items.append(Item(folder, what, disk_usage(folder)))
        return
    for entry in entries:
        status = _lstat(entry)
        if status is None:
            continue
        told = "" if _not_ours(status, user) else entry_is(entry)
        if told:
            items.append(Item(entry, told, disk_usage(entry)))
        else:
            kept.append(Kept(entry, "it is not provably Proa's"))


def _not_ours(found: os.stat_result, user: int | None) -> str:
    if stat.S_ISLNK(found.st_mode):
        return "it is a link to somewhere else"
    if user is not None and found.st_uid != user:
        return f"it belongs to another user (id {found.st_uid})"
    return ""


def _is_marked(folder: Path) -> bool:
    found = _lstat(folder / OURS)
    return found is not None and stat.S_ISREG(found.st_mode)


def _machine_entry(entry: Path) -> str:
    if not entry.is_dir() or entry.is_symlink():
        return ""
    if entry.name.startswith((".new-", ".old-")):
        return "what a half-made or half-removed machine left"
    if any((entry / sign).exists() for sign in _MACHINE_SIGNS):
        return f"the machine {entry.name!r} with its images, containers and volumes"
    return ""


def _image_entry(entry: Path) -> str:
    if not entry.is_dir() or entry.is_symlink():
        return ""
    if entry.name.startswith(".partial-"):
        return "what an import that was cut short left"
    return f"the guest image {entry.name}" if (entry / "manifest.json").is_file() else ""


def _key_entry(entry: Path) -> str:
    """The installation's own pair; `trusted` holds what a person put there."""
    own = entry.name in ("local.key", "local.pub") and entry.is_file() and not entry.is_symlink()
    return "the key that images built here are signed with" if own else ""


def _runtime_entry(entry: Path) -> str:
    if entry.name in ("agent.sock", "agent.lock"):
        return "the agent's socket and lock"
    machine = entry.is_dir() and not entry.is_symlink() and (entry / "docker.sock").exists()
    return f"sockets of {entry.name!r}" if machine else ""


def _cache_entry(entry: Path) -> str:
    if entry.name == "downloads" and entry.is_dir() and not entry.is_symlink():
        return "guest images that are half fetched"
    return "which accelerator works here" if entry.name == "acceleration.json" else ""


def _log_entry(entry: Path) -> str:
    return "a log" if _LOG.match(entry.name) and entry.is_file() and not entry.is_symlink() else ""


def _rest(folder: Path, named: list[Path]) -> int:
    return disk_usage(folder) - sum(disk_usage(entry) for entry in named)


def disk_usage(path: Path) -> int:
    """Bytes that `path` takes on the disk, with all below it; links are not followed."""
    return sum(_blocks(found) for found in _walk(path))


def _walk(path: Path) -> Iterator[os.stat_result]:
    found = _lstat(path)
    if found is None:
        return
    yield found
    if stat.S_ISDIR(found.st_mode):
        for entry in _entries(path):
            yield from _walk(entry)


def _blocks(found: os.stat_result) -> int:
    # st_blocks counts 512 bytes whatever the file system's block is (stat(2)); Windows has none.
    blocks = getattr(found, "st_blocks", None)
    return int(found.st_size if blocks is None else blocks * 512)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None
