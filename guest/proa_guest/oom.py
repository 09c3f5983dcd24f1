"""What the kernel ended because the guest was out of memory, from its log.

A container that reaches a limit of its own is that container's matter (`docker inspect` says so); this
is about the guest as a whole.
"""

from __future__ import annotations

import os
import re

KMSG = "/dev/kmsg"
_MOST_RECORD = 8192  # bytes; a record is shorter (kernel: Documentation/ABI/testing/dev-kmsg)
_MOST_READ = 500  # records a look takes, so that a chatty kernel does not hold init up
# mm/oom_kill.c, dump_oom_victim: the name of a task may contain anything, so the ends are matched.
_VICTIM = re.compile(r"oom-kill:.*,global_oom,task_memcg=(.*),task=(.*),pid=(\d+),uid=\d+$")
_CONTAINER = re.compile(r"/docker/([0-9a-f]{12})[0-9a-f]{52}")


def victim(record: str) -> str | None:
    """Who was ended, as words, if this record of the kernel's log says so."""
    found = _VICTIM.search(record.partition("\n")[0])
    if found is None:
        return None
    group, name, pid = found.groups()
    container = _CONTAINER.search(group)
    where = f", container {container[1]}" if container else ""
    return f"{name} (pid {pid}{where})"


class OutOfMemory:
    """Counts what was ended, from the moment it is made."""

    def __init__(self, path: str = KMSG) -> None:
        self.kills = 0
        self.victim = ""
        self.at = 0.0  # seconds of uptime
        try:
            self._log = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._log, 0, os.SEEK_END)
        except OSError:
            self._log = -1

    def look(self, uptime: float) -> str | None:
        """Who was ended since the last look (the last of them), or None."""
        news = None
        for _ in range(_MOST_READ if self._log >= 0 else 0):
            try:
                record = os.read(self._log, _MOST_RECORD)
            except BrokenPipeError:
                continue  # the kernel overwrote what we had not read yet
            except OSError:
                break  # all is read
            found = victim(record.decode("utf-8", "replace"))
            if found:
                self.kills, self.victim, self.at, news = self.kills + 1, found, uptime, found
        return news

    def report(self) -> dict[str, object]:
        return {"kills": self.kills, "victim": self.victim, "at": round(self.at, 1)}
