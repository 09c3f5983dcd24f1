"""Which kernel modules go where: names and what they depend on, from the kernel's own modules.dep."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def _plain(name: str) -> str:
    return name.replace("-", "_")


class Modules:
    """The modules of one kernel, below `folder` (usr/lib/modules/VERSION)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.version = folder.name
        self._needs: dict[str, list[str]] = {}
        self._path: dict[str, str] = {}
        for line in (folder / "modules.dep").read_text().splitlines():
            path, _, needs = line.partition(":")
            self._path[self._name(path)] = path
            self._needs[path] = needs.split()
        builtin = (folder / "modules.builtin").read_text().split()
        self._builtin = {self._name(path) for path in builtin}

    @staticmethod
    def _name(path: str) -> str:
        return _plain(Path(path).name.partition(".ko")[0])

    def closure(self, names: Iterable[str]) -> list[str]:
        """Paths (below `folder`) of the modules and all they need, each behind what it needs.

        Names that are built in or that this kernel does not have are passed over.
        """
        ordered: dict[str, None] = {}
        for name in names:
            path = self._path.get(_plain(name))
            if path is not None:
                # modules.dep names the nearest need first: reversed is the order of loading.
                for need in [*reversed(self._needs[path]), path]:
                    ordered.setdefault(need)
        return list(ordered)

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Names that are neither modules nor built in."""
        return [
            name for name in names if _plain(name) not in self._path and _plain(name) not in self._builtin
        ]
