"""A process that gives up all files but those it works with, so that a hole in it leads nowhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proa.system.beneath import Descriptor


def confine(reads: Iterable[Descriptor], writes: Iterable[Descriptor]) -> bool:
    """Leave this process only what lies in these folders, for reading or for everything but to execute.

    To be called before it has a second thread. False where this system has no way to. Raises OSError.
    """
    if sys.platform == "linux":
        from proa.system import landlock  # not to be had elsewhere

        return landlock.confine(reads, writes)
    return False
