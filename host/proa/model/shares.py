"""Which folders of the host containers may have, and which they never get. Pure: links are the caller's.

The longest share that holds a path decides, name by name, so `/share-evil` is not below `/share`. Where
secrets are is shared only if a share names that very folder, or one inside it.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from proa.model.host_path import BadPath, System, components, normal

USUAL = "usual"  # the entry that stands for what is shared where nobody set anything

_USUAL = {
    System.LINUX: ("~", "/tmp", "/var/tmp"),
    System.MACOS: ("~", "/Users", "/Volumes", "/private", "/tmp", "/var/folders"),
    System.WINDOWS: ("~",),  # the temporary folder is in it
}
# Keys, logins and what opens a cloud account: a container that is given the home has no need of them.
NEVER = (
    "~/.ssh",
    "~/.gnupg",
    "~/.aws",
    "~/.azure",
    "~/.config/gcloud",
    "~/.kube",
    "~/.docker/config.json",
)
_NEVER_MORE = {
    System.LINUX: (),
    System.MACOS: ("~/Library/Keychains",),
    System.WINDOWS: ("~/AppData/Roaming/gcloud", "~/AppData/Roaming/gnupg"),
}


@dataclass(frozen=True)
class Share:
    """A folder that containers may have, with all below it."""

    path: str
    writable: bool = True

    @classmethod
    def parse(cls, entry: str) -> Share:
        """An entry of the setting: `/data`, `~/data:ro`. Raises ValueError."""
        path, mode = entry, "rw"
        for known in ("ro", "rw"):
            if entry.endswith(":" + known):
                path, mode = entry[:-3], known
        if not path.isprintable():
            raise ValueError("a folder's path must be printable text")
        if not (path.startswith(("~/", "~\\", "/")) or path == "~" or path[1:3] in (":\\", ":/")):
            raise ValueError(f"it must be a whole path, from the root on, or begin with ~, or be {USUAL}")
        return cls(path, mode == "rw")

    def __str__(self) -> str:
        # `/x:ro` may be a folder's own name; said to be writable it stays one.
        ambiguous = self.path.endswith((":ro", ":rw"))
        return self.path + ((":rw" if ambiguous else "") if self.writable else ":ro")


@dataclass(frozen=True)
class Allowed:
    share: Share
    path: str  # in its one form


@dataclass(frozen=True)
class Refused:
    code: str
    message: str
    hint: str


def usual(system: System) -> tuple[Share, ...]:
    return tuple(Share(path) for path in _USUAL[system])


def never(system: System) -> tuple[str, ...]:
    """What is not shared unless it is named; Proa's own folders are added by whoever knows them."""
    return NEVER + _NEVER_MORE[system]


def read(entries: Iterable[str], system: System) -> tuple[Share, ...]:
    """The shares that a setting means; of a folder that stands twice the last entry counts."""
    found: dict[str, Share] = {}
    for entry in entries:
        for share in usual(system) if entry == USUAL else (Share.parse(entry),):
            found[share.path] = share
    return tuple(found.values())


@dataclass(frozen=True)
class Policy:
    """What may be shared. `shares` and `never` may begin with `~`, which is `home`."""

    shares: tuple[Share, ...]
    never: tuple[str, ...]
    home: str
    system: System = System.LINUX
    fold: bool | None = None  # whether `A` and `a` are one name; None is as the system's disks have it

    def decide(self, path: str) -> Allowed | Refused:
        """Whether a host's file or folder may be given to a container."""
        try:
            whole, names = normal(path, self.system), self._names(path)
        except BadPath as error:
            return Refused(
                "bad-host-path",
                f"{path!r} is no folder of this computer that could be shared: {error}",
                "give its whole path",
            )
        share, depth = self._share(names)
        hint = f"to allow it: proa share add {self._quoted(whole)}"
        if share is None:
            return Refused("host-folder-not-shared", f"Proa does not share {whole!r} with containers", hint)
        for folder in self._never:
            if _holds(folder, names) and not len(folder) <= depth:
                return Refused(
                    "host-folder-protected",
                    f"Proa keeps {whole!r} from containers, since keys and logins are kept there",
                    hint,
                )
        return Allowed(share, whole)

    def hidden_below(self, path: str) -> tuple[str, ...]:
        """What the share server hides inside a folder that is shared, in its one form. Raises BadPath."""
        names = self._names(path)
        found = []
        for folder in self.never:
            whole = normal(self._expand(folder), self.system)
            inner = self._names(whole)
            if inner != names and _holds(names, inner) and isinstance(self.decide(whole), Refused):
                found.append(whole)
        return tuple(dict.fromkeys(found))

    def resolved(self, real: Callable[[str], str]) -> Policy:
        """The same for paths without links: what a share or a secret leads to is shared or kept as well."""
        shares = {share.path: share for share in self.shares}
        for share in self.shares:
            place = real(normal(self._expand(share.path), self.system))
            shares.setdefault(place, Share(place, share.writable))
        kept = [real(normal(self._expand(folder), self.system)) for folder in self.never]
        return replace(self, shares=tuple(shares.values()), never=tuple(dict.fromkeys([*self.never, *kept])))

    # -- inside -------------------------------------------------------------------------------

    @property
    def _folds(self) -> bool:
        return self.system.folds if self.fold is None else self.fold

    @functools.cached_property
    def _shares(self) -> tuple[tuple[tuple[str, ...], Share], ...]:
        """With their names, the longest first; of two entries for one folder the last counts."""
        found = {self._names(self._expand(share.path)): share for share in self.shares}
        return tuple(sorted(found.items(), key=lambda item: -len(item[0])))

    @functools.cached_property
    def _never(self) -> tuple[tuple[str, ...], ...]:
        return tuple(self._names(self._expand(folder)) for folder in self.never)

    def _share(self, names: tuple[str, ...]) -> tuple[Share | None, int]:
        """The share that holds a path, and how deep it is."""
        for folder, share in self._shares:
            if _holds(folder, names):
                return share, len(folder)
        return None, 0

    def _names(self, path: str) -> tuple[str, ...]:
        return components(path, self.system, fold=self._folds)

    def _expand(self, path: str) -> str:
        return self.home + path[1:] if path == "~" or path.startswith(("~/", "~\\")) else path

    def _quoted(self, path: str) -> str:
        return f'"{path}"' if self.system is System.WINDOWS else shlex.quote(path)


def _holds(folder: tuple[str, ...], names: tuple[str, ...]) -> bool:
    """Whether a path is a folder or below it."""
    return names[: len(folder)] == folder
