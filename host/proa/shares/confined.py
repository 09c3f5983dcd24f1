"""What the server's process can reach at all: the shares as they were when it began, its state and its code.

Rights are tied to the folders themselves and can only be given up. So when what is shared changes, or another
folder comes to be where a share begins, another process has to go on.
"""

from __future__ import annotations

import errno
import logging
import os
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import proa
from proa.shares.nodes import Identity, Root
from proa.shares.tree import OutOfReach, Reach, identity
from proa.system import beneath
from proa.system.beneath import Descriptor
from proa.system.confinement import confine

log = logging.getLogger("proa.shares")

_READS = (*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")), "/proc/sys/fs/inotify")


class Confined(Reach):
    """The rights of this process; without a way to confine it, all of its user's."""

    def __init__(self, give_way: Callable[[], None]) -> None:
        """`give_way` is called where another process has to go on."""
        self.holds = False
        self._give_way = give_way
        self._given: frozenset[Root] = frozenset()
        self._tops: dict[Root, Identity] = {}  # of those that were there

    def begin(self, roots: Iterable[Root], state: Path) -> None:
        """Give up everything else but the folder `state`. To be called before there are threads."""
        self._given = frozenset(roots)
        if hasattr(time, "tzset"):
            time.tzset()  # reads a file, and the log has times
        code = {beneath.shared_path(path) for path in (*_READS, *proa.__path__)}
        tops = {root: folder for root in self._given for folder in _opened((root.path,))}
        reads = [folder for root, folder in tops.items() if not root.writable]
        writes = [folder for root, folder in tops.items() if root.writable]
        try:
            self.holds = confine(
                [*reads, *_opened(code)], [*writes, *_opened((beneath.shared_path(str(state)),))]
            )
        except OSError as error:  # whoever started us may have used up what the system allows
            log.warning("the server is not confined to what is shared: %s", error)
        if self.holds:
            self._tops = {root: identity(beneath.fstat(folder.number)) for root, folder in tops.items()}

    def allows(self, roots: Iterable[Root]) -> bool:
        """Whether this process has the rights for these shares, and no others."""
        return not self.holds or self._given == frozenset(roots)

    def check(self, root: Root, found: Identity) -> None:
        """Give way where another folder is there than this process has rights to. Raises OutOfReach then."""
        if self.holds and self._tops.get(root) != found:
            log.info("%s is another folder by now, so another server goes on", beneath.host_path(root.path))
            self._give_way()
            raise OutOfReach(errno.EACCES, os.strerror(errno.EACCES))

    def mounted(self, path: bytes) -> None:
        """Another file system is there: rights to one end when it is unmounted, also if it comes back."""
        if self.holds and any(
            (root.path + b"/").startswith(path.rstrip(b"/") + b"/") for root in self._given
        ):
            self._give_way()


def _opened(paths: Iterable[bytes]) -> Iterator[Descriptor]:
    for path in paths:
        try:
            yield beneath.open_root(path)
        except OSError as error:
            log.debug("%r: %s", path, error)
