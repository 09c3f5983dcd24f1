"""A QEMU whose files are gone (a logout removed them, an agent died before it wrote them): who is it?

Its identity is proved twice: it holds the machine's lock open, a file that only our own hypervisors are
given, and its command line names the machine's own monitor.
"""

from __future__ import annotations

from pathlib import Path

from proa.drivers.qemu.command import escape
from proa.system.processes import ProcessIdentity, command_line, holders


def find(lock: Path, runtime: Path) -> ProcessIdentity | None:
    """The QEMU of the machine with that lock and runtime folder, or None where nothing proves one."""
    monitor = f"path={escape(runtime / 'qmp.sock')},"
    for identity in holders(lock):
        if any(monitor in word for word in command_line(identity)):
            return identity
    return None
