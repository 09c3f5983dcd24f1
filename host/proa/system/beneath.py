"""Files beneath open folders, never by a path that a link could lead astray: the one door to what is shared.

A descriptor is an object here: who holds it may use its number, and the last one to let go closes it. So
no thread can meet a number that was closed and given to another file meanwhile.

Names are bytes, as the guest has them. Where a whole path is given, it is one of the guest's kind on every
system, without what is before it there: `/home/me` is that, and `C:\\Users\\me` is `/c/Users/me`.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    from proa.system.beneath_windows import *  # noqa: F403  (the same names in both)
else:
    from proa.system.beneath_posix import *  # noqa: F403

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2  # linux/fs.h
