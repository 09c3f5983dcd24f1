"""When a process of Windows was started, which tells it from another one that has got its number.

Numbers are those of winnt.h and winbase.h.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import wintypes

assert sys.platform == "win32"

_QUERY, _SYNCHRONIZE = 0x1000, 0x100000  # PROCESS_QUERY_LIMITED_INFORMATION, and to wait for its end
_STILL_RUNS = 0x102  # WAIT_TIMEOUT

_LIBRARY = ctypes.WinDLL("kernel32")
_TIME = ctypes.POINTER(wintypes.FILETIME)
_open = _LIBRARY.OpenProcess
_open.argtypes, _open.restype = (wintypes.DWORD, wintypes.BOOL, wintypes.DWORD), wintypes.HANDLE
_close = _LIBRARY.CloseHandle
_close.argtypes, _close.restype = (wintypes.HANDLE,), wintypes.BOOL
_wait = _LIBRARY.WaitForSingleObject
_wait.argtypes, _wait.restype = (wintypes.HANDLE, wintypes.DWORD), wintypes.DWORD
_times = _LIBRARY.GetProcessTimes
_times.argtypes, _times.restype = (wintypes.HANDLE, _TIME, _TIME, _TIME, _TIME), wintypes.BOOL


def started(pid: int) -> str:
    """In hundreds of nanoseconds since 1601; empty where no such process runs, or it is another user's."""
    handle = _open(_QUERY | _SYNCHRONIZE, False, pid)
    if not handle:
        return ""
    try:
        if _wait(handle, 0) != _STILL_RUNS:
            return ""
        found = [wintypes.FILETIME() for _ in range(4)]
        if not _times(handle, *map(ctypes.byref, found)):
            return ""
        return str(found[0].dwHighDateTime << 32 | found[0].dwLowDateTime)
    finally:
        _close(handle)
