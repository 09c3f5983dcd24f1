"""Which host paths containers get: the settings, as the proxy asks them and the share server holds them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proa.engine.mounts import HostMount, Target
from proa.engine.proxy import NotShared
from proa.model import shares
from proa.model.api import SharedFolder
from proa.model.host_path import GUEST_ROOT, System, this_system, to_guest
from proa.model.link_path import to_link
from proa.model.machine import MachineConfig
from proa.model.shares import Policy, Refused
from proa.shares.host import Shared
from proa.shares.links import leads_to
from proa.system.paths import Places


@dataclass(frozen=True)
class GuestView:
    """This computer as a command in the guest sees it (proa_guest.call), all in the guest's form of paths."""

    cwd: str  # empty where it is not shared
    home: str
    folders: tuple[
        tuple[str, str], ...
    ]  # where the guest has a share, without GUEST_ROOT, and where it is here
    note: str  # for the user; may be empty


class ShareRules:
    """One machine's. What is set is read when it is asked for, so a change counts at once."""

    def __init__(self, places: Places, config: Callable[[], MachineConfig]) -> None:
        self._places = places
        self._config = config

    def shared(self) -> Shared:
        """What the share server may reach."""
        policy = self._policy()
        roots: dict[str, bool] = {}
        never: list[str] = []
        for share in policy.shares:
            path = os.path.realpath(Path(share.path).expanduser())
            if os.path.isdir(path):  # noqa: PTH112
                roots[path] = share.writable
                never += policy.hidden_below(path)
        config = self._config()
        owner, locks = config.setting("shares.owner"), config.setting("shares.locks")
        return Shared(tuple(roots.items()), tuple(dict.fromkeys(never)), owner, locks)

    def folders(self, known: Mapping[str, int]) -> tuple[SharedFolder, ...]:
        """The same for a person, with those that are not there, and how many files of each are `known`."""
        found = []
        for share in shares.read(self._config().setting("shares.folders"), this_system()):
            path = Path(share.path).expanduser()
            problem = "" if path.is_dir() else "there is no such folder"
            count = known.get(os.path.realpath(path), 0)
            found.append(SharedFolder(path=str(path), writable=share.writable, problem=problem, known=count))
        return tuple(found)

    def view(self, cwd: str, home: str) -> GuestView:
        """What a command that is run in `cwd` sees. Raises BadPath for a home that is no path."""
        policy = self._policy()
        folders: dict[str, str] = {}
        for share in policy.shares:
            path = Path(share.path).expanduser()
            real = os.path.realpath(path)
            if os.path.isdir(real):  # noqa: PTH112
                folders[_inside(str(path), policy.system)] = _inside(real, policy.system)
        decided = policy.decide(os.path.realpath(cwd))
        told = tuple((source, target) for target, source in folders.items())
        if isinstance(decided, Refused):
            note = f"{decided.message}, so docker finds no files here ({decided.hint})"
            return GuestView("", _inside(home, policy.system), told, note)
        return GuestView(_inside(decided.path, policy.system), _inside(home, policy.system), told, "")

    def targets(self, wanted: Sequence[HostMount]) -> dict[str, Target]:
        """Where the guest has these; makes folders that the API says to make. Raises NotShared."""
        policy = self._policy()
        return {mount.path: self._target(policy, mount) for mount in wanted}

    def _policy(self) -> Policy:
        system = this_system()
        entries = shares.read(self._config().setting("shares.folders"), system)
        places = self._places
        ours = {
            str(place) for place in (places.home, places.data, places.cache, places.run, places.logs) if place
        }
        policy = Policy(entries, (*shares.never(system), *sorted(ours)), str(Path.home()), system)
        return policy.resolved(os.path.realpath)

    def _target(self, policy: Policy, mount: HostMount) -> Target:
        # What counts is where the path leads: a link out of a share is no way out of it.
        real = os.path.realpath(mount.path) if mount.path.startswith("/") else mount.path
        decided = policy.decide(real)
        if isinstance(decided, Refused):
            raise NotShared(400, f"{decided.message}. {decided.hint} [{decided.code}]")
        try:
            kind = os.stat(real).st_mode  # noqa: PTH116
        except FileNotFoundError:
            self._make(mount, real)
        except OSError as error:
            raise NotShared(400, f"{mount.path}: {error.strerror} [host-path-unreadable]") from error
        else:
            if not (stat.S_ISDIR(kind) or stat.S_ISREG(kind)):
                raise NotShared(
                    400,
                    f"{mount.path} is a socket, pipe or device of this computer, "
                    "and containers can have folders and files of it only [host-path-special]",
                )
        return Target(_in_guest(policy, mount.path, real), decided.share.writable)

    def _make(self, mount: HostMount, real: str) -> None:
        if not mount.creates:
            words = 'invalid mount config for type "bind": bind source path does not exist'
            raise NotShared(400, f"{words}: {mount.path}")
        try:
            os.makedirs(real, exist_ok=True)  # noqa: PTH103
        except OSError as error:
            raise NotShared(
                400, f"the folder {mount.path} cannot be made: {error.strerror} [host-folder-not-made]"
            ) from error


def _in_guest(policy: Policy, path: str, real: str) -> str:
    """Where the guest is to look for a file that is `real`: by the name it was given, if that can be.

    So it is with an engine here: what a link leads to may change with the next start of the container, and
    the name is what is shown. The guest's kernel follows links itself, but absolute ones would lead to the
    guest's own files, and those in a folder above all shares it does not see: for a path with such a link in
    it the share server makes one up.
    """
    # What `..` is behind a link, the text does not say.
    if not path.startswith("/") or ".." in path.split("/"):
        return to_guest(real, policy.system)
    unseen = False

    def may_follow(link: bytes) -> bool:
        nonlocal unseen
        place = Path(os.fsdecode(link))
        shared = not isinstance(policy.decide(str(place)), Refused)
        unseen = unseen or not shared or place.readlink().is_absolute()
        return shared or any(place.parent in Path(share.path).parents for share in policy.shares)

    try:
        found = leads_to(os.fsencode(path), may_follow)
    except OSError:
        found = None
    if found != os.fsencode(real):
        return to_guest(real, policy.system)
    if not unseen:
        return to_guest(path, policy.system)
    return to_link(os.path.normpath(path)) or to_guest(real, policy.system)


def _inside(path: str, system: System) -> str:
    """A path as the guest's CLI is to name it: as it is here, but `C:\\x` is `/c/x`."""
    return to_guest(path, system)[len(GUEST_ROOT) :] or "/"
