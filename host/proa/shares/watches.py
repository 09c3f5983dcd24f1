"""Which of the guest's files are watched, so that it may trust what it was told of them."""

from __future__ import annotations

import logging
import threading
from collections import Counter

from proa.shares.nodes import Node, Stamp
from proa.system import beneath
from proa.system.beneath import Descriptor, Status
from proa.system.watching import Kind, TooManyWatchesError, Watcher

log = logging.getLogger("proa.shares")


def stamp(found: Status) -> Stamp:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Watches:
    """Safe for several threads. Without a watcher nothing is ever covered, and the guest asks each time."""

    def __init__(self, watcher: Watcher | None) -> None:
        self.watcher = watcher
        self.heard = False  # the guest can be told of changes
        self.problem = ""
        self._nodes: dict[int, Node] = {}
        self._above: dict[int, Node] = {}  # above all shares; one may be the folder of a node as well
        self._lock = threading.Lock()
        self._echoes: Counter[tuple[int, bytes, Kind]] = Counter()
        self._full = False

    def __len__(self) -> int:
        return len(self._nodes)

    def cover(self, node: Node, parent: Descriptor, name: bytes = b".") -> None:
        """Watch the file or folder that is called so; where that cannot be, it stays as it is.

        To be called before what the guest is told is looked at.
        """
        if node.watch or self.watcher is None or not self.heard or self._full:
            return
        folder = node.is_folder
        try:
            if not self.watcher.tells_all(
                beneath.fstat(parent.number).st_dev if node.root is None else node.identity[0]
            ):
                return
            watch = self.watcher.watch(parent.number, name, folder=folder, only_names=node.root is None)
        except TooManyWatchesError as error:
            self._full, self.problem = True, str(error.strerror)
            log.warning("changes of some folders are not told, so each is asked for: %s", error.strerror)
            return
        except OSError as error:
            log.debug("not watched: %s", error)
            return
        with self._lock:
            before = self._map(node).get(watch)
            if before is not None:  # the same folder, which the guest was told had gone
                before.watch = 0
            self._map(node)[watch] = node
            node.watch = watch

    def release(self, node: Node) -> None:
        """The guest has forgotten it, or it is not there any more."""
        with self._lock:
            watch, node.watch = node.watch, 0
            if not watch or self._map(node).get(watch) is not node or self.watcher is None:
                return
            del self._map(node)[watch]
            if watch not in self._nodes and watch not in self._above:
                self.watcher.unwatch(watch)
            if self._full:
                self._full, self.problem = False, ""
            if self._echoes:
                for key in [key for key in self._echoes if key[0] == watch]:
                    del self._echoes[key]

    @property
    def by_path(self) -> bool:
        """Whether it is only told where something may have changed, and how is to be looked at."""
        return self.watcher is not None and self.watcher.by_path

    def of_any_case(self, folder: Node) -> bool:
        """Whether a name in it may be written in any case; the watcher tells of one of these."""
        return self.watcher is not None and self.watcher.of_any_case(folder.identity[0])

    def _map(self, node: Node) -> dict[int, Node]:
        return self._nodes if node.root is not None else self._above

    def node(self, watch: int) -> Node | None:
        return self._nodes.get(watch)

    def above(self, watch: int) -> Node | None:
        """The folder above all shares that is watched so."""
        return self._above.get(watch)

    def all_above(self) -> list[Node]:
        with self._lock:
            return list(self._above.values())

    def trusted(self, node: Node, links: int) -> bool:
        """Whether each change of the node is told; of a file with several names only if watched itself."""
        if node.watch:
            return True
        if node.is_folder or links != 1:
            return False
        return any(parent.watch for parent, _ in tuple(node.places))

    # -- what the guest does itself -----------------------------------------------------------

    def expect(self, folder: Node, name: bytes, kind: Kind) -> bool:
        """The guest is about to do this: whether the watcher will tell of it.

        It does once, or at least once where it tells by paths only.
        """
        if not folder.watch:
            return False
        with self._lock:
            if self.by_path:
                self._echoes[folder.watch, name, Kind.PATH] = 1
            else:
                self._echoes[folder.watch, name, kind] += 1
        return True

    def expects(self, folder: Node, name: bytes) -> bool:
        """Whether it will tell yet that the guest has given this name to a file."""
        if not self._echoes:
            return False
        watch = folder.watch
        return (watch, name, Kind.CREATED) in self._echoes or (watch, name, Kind.MOVED_TO) in self._echoes

    def is_echo(self, folder: Node, name: bytes, kind: Kind) -> bool:
        """Whether the guest did it, which is counted off; False where it was the host.

        Of what is told by paths: whether the guest has done something there since this was asked last.
        """
        key = folder.watch, name, Kind.PATH if self.by_path else kind
        with self._lock:
            left = self._echoes.get(key, 0)
            if not left:
                return False
            if left == 1:
                del self._echoes[key]
            else:
                self._echoes[key] = left - 1
            return True

    def no_echoes(self) -> None:
        """What was told is lost."""
        with self._lock:
            self._echoes.clear()
