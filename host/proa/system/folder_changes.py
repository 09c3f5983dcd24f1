"""ReadDirectoryChangesW, Windows' way to tell of changes: at which paths in a folder and all below it.

Each folder that is followed has a thread, which asks for changes again and again; what happens between two
of its questions the system keeps. Numbers and structures are those of winnt.h, winbase.h and winerror.h.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from ctypes import wintypes

assert sys.platform == "win32"

from proa.system import beneath, windows_records
from proa.system.watching import ByPath, Change, Kind

log = logging.getLogger("proa.system")

BEAT = 2.0  # seconds between looks whether a folder is still the one of that name, or has come
STARTS = 10.0  # seconds that it may take until changes are told
_ROOM, _ROOM_OVER_NETWORK = 1 << 20, 64 << 10  # bytes of changes that are kept; of a network's, no more
# FILE_NOTIFY_CHANGE_*: names of files, of folders, attributes, size, the last write, creation, rights.
_WANTED = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x40 | 0x100
_LIST, _SHARED, _EXISTING = 0x1, 0x7, 3  # FILE_LIST_DIRECTORY, FILE_SHARE_*, OPEN_EXISTING
_HOW = 0x02000000 | 0x40000000  # FILE_FLAG_BACKUP_SEMANTICS, which a folder wants, FILE_FLAG_OVERLAPPED
_NO_HANDLE = ctypes.c_void_p(-1).value  # INVALID_HANDLE_VALUE
_FIXED = 3  # DRIVE_FIXED
_TOO_MANY = 1022  # ERROR_NOTIFY_ENUM_DIR
_DONE, _STOPPED = 0, 1  # of what is waited for, WAIT_OBJECT_0 and the next
_MOST_PATH = 32768  # characters of a path


class _Overlapped(ctypes.Structure):
    """OVERLAPPED: a call that goes on by itself, and the event that tells its end."""

    _fields_ = (
        ("status", ctypes.c_size_t),
        ("bytes", ctypes.c_size_t),
        ("offset", ctypes.c_uint64),
        ("event", wintypes.HANDLE),
    )


_LIBRARY = ctypes.WinDLL("kernel32", use_last_error=True)
_HANDLE, _DWORD, _BOOL, _TEXT = wintypes.HANDLE, wintypes.DWORD, wintypes.BOOL, wintypes.LPCWSTR
_CALL = ctypes.POINTER(_Overlapped)
_open = _LIBRARY.CreateFileW
_open.argtypes = (_TEXT, _DWORD, _DWORD, ctypes.c_void_p, _DWORD, _DWORD, _HANDLE)
_open.restype = _HANDLE
_close = _LIBRARY.CloseHandle
_close.argtypes, _close.restype = (_HANDLE,), _BOOL
_new_event = _LIBRARY.CreateEventW
_new_event.argtypes, _new_event.restype = (ctypes.c_void_p, _BOOL, _BOOL, _TEXT), _HANDLE
_set_event = _LIBRARY.SetEvent
_set_event.argtypes, _set_event.restype = (_HANDLE,), _BOOL
_wait = _LIBRARY.WaitForMultipleObjects
_wait.argtypes, _wait.restype = (_DWORD, ctypes.POINTER(_HANDLE), _BOOL, _DWORD), _DWORD
_ask = _LIBRARY.ReadDirectoryChangesW
_ask.argtypes = (
    _HANDLE, ctypes.c_void_p, _DWORD, _BOOL, _DWORD, ctypes.POINTER(_DWORD), _CALL, ctypes.c_void_p,
)  # fmt: skip
_ask.restype = _BOOL
_result = _LIBRARY.GetOverlappedResult
_result.argtypes, _result.restype = (_HANDLE, _CALL, ctypes.POINTER(_DWORD), _BOOL), _BOOL
_cancel = _LIBRARY.CancelIoEx
_cancel.argtypes, _cancel.restype = (_HANDLE, _CALL), _BOOL
_drive_type = _LIBRARY.GetDriveTypeW
_drive_type.argtypes, _drive_type.restype = (_TEXT,), wintypes.UINT
_volume = _LIBRARY.GetVolumePathNameW
_volume.argtypes, _volume.restype = (_TEXT, wintypes.LPWSTR, _DWORD), _BOOL


class FolderChanges(ByPath):
    def __init__(self) -> None:
        super().__init__()
        self._followed: dict[bytes, _Folder] = {}

    def follow(self, roots: Sequence[bytes]) -> None:
        before = self._followed
        new = {root: _Folder(root, self._hear) for root in roots if root not in before}
        kept = {root: folder for root, folder in before.items() if root in roots}
        self._followed = kept | new  # another one each time: other threads look at it
        try:
            for folder in new.values():
                folder.start()
        finally:
            for root in before.keys() - kept.keys():
                before[root].close()

    def tells_all(self, device: int) -> bool:
        followed = [folder for folder in self._followed.values() if folder.device == device]
        return bool(followed) and all(folder.tells_all for folder in followed)

    def of_any_case(self, device: int) -> bool:
        return True

    def close(self) -> None:
        followed, self._followed = self._followed, {}
        for folder in followed.values():
            folder.close()


class _Folder:
    """One that is followed, whether it is there or not, with the thread that asks."""

    def __init__(self, root: bytes, tell: Callable[[list[Change]], None]) -> None:
        self.root = root
        self.device: int | None = None  # where it is, while changes are told
        self.tells_all = False
        self._tell = tell
        self._stop = _event()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name="folder changes", daemon=True)

    def start(self) -> None:
        """Return when changes are told, if it is there. Raises OSError."""
        self._thread.start()
        if not self._begun.wait(STARTS):
            raise OSError(errno.EIO, "Windows does not tell of changes in the shared folders")

    def close(self) -> None:
        _set_event(self._stop)
        self._thread.join(STARTS)

    def _run(self) -> None:
        try:
            while not self._follow() and _first_of(self._stop) is None:
                pass
        finally:
            self._begun.set()
            _close(self._stop)

    def _follow(self) -> bool:
        """Tell of changes until the folder is another one (False), or nobody wants to know them (True)."""
        is_first = not self._begun.is_set()
        try:
            found = beneath.status_at(self.root)
            asked = _Asked(beneath.host_path(self.root))
        except OSError as error:  # it is tried again after a while
            log.debug("%r is not followed: %s", self.root, error)
            self._begun.set()
            return False
        try:
            if not is_first:
                self._tell([Change(0, Kind.MOUNTED, self.root)])
            self.tells_all, self.device = asked.is_fixed, found.st_dev
            self._begun.set()
            while (ended := _first_of(asked.event, self._stop)) != _STOPPED:
                if ended == _DONE:
                    self._tell(_as_changes(self.root, asked.answer()))
                elif not _is_still(self.root, found):
                    break
        except OSError as error:
            log.debug("%r is not followed any more: %s", self.root, error)
            ended = None
        finally:
            self.device = None
            asked.close()
        if ended != _STOPPED:
            self._tell([Change(0, Kind.MOUNTED, self.root)])
        return ended == _STOPPED


class _Asked:
    """A folder with a question for its changes, which is always under way."""

    def __init__(self, path: str) -> None:
        """Raises OSError."""
        volume = ctypes.create_unicode_buffer(_MOST_PATH)
        self.is_fixed = bool(_volume(path, volume, _MOST_PATH)) and _drive_type(volume.value) == _FIXED
        self._room = _ROOM if self.is_fixed else _ROOM_OVER_NETWORK
        self._buffer = ctypes.create_string_buffer(self._room)  # of double words, as that is aligned
        handle = _open("\\\\?\\" + path, _LIST, _SHARED, None, _EXISTING, _HOW, None)
        if handle in (None, _NO_HANDLE):
            raise _failed()
        self._handle: int = handle
        self.event = _event()
        self._call = _Overlapped()
        try:
            self._ask()
        except OSError:
            self._close()
            raise

    def _ask(self) -> None:
        self._call = _Overlapped(event=self.event)
        call = ctypes.byref(self._call)
        if not _ask(self._handle, self._buffer, self._room, True, _WANTED, None, call, None):
            raise _failed()

    def answer(self) -> bytes | None:
        """What has happened, None for more than could be kept; the next is asked for. Raises OSError."""
        length = _DWORD()
        if _result(self._handle, ctypes.byref(self._call), ctypes.byref(length), False):
            data = ctypes.string_at(self._buffer, length.value) or None
        elif ctypes.get_last_error() == _TOO_MANY:
            data = None
        else:
            raise _failed()
        self._ask()
        return data

    def close(self) -> None:
        """Only when the system does not write into the buffer any more."""
        length = _DWORD()
        _cancel(self._handle, None)
        _result(self._handle, ctypes.byref(self._call), ctypes.byref(length), True)
        self._close()

    def _close(self) -> None:
        _close(self._handle)
        _close(self.event)


def _as_changes(root: bytes, data: bytes | None) -> list[Change]:
    if data is None:
        return [Change(0, Kind.OVERFLOW)]
    try:
        told = windows_records.changes(data)
    except ValueError:
        return [Change(0, Kind.OVERFLOW)]
    return [Change(0, kind | Kind.PATH, root + b"/" + path) for kind, path in told]


def _is_still(root: bytes, before: beneath.Status) -> bool:
    try:
        now = beneath.status_at(root)
    except OSError:
        return False
    return (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino)


def _event() -> int:
    """One that goes off for one who waits; `_stop` is set again by nobody. Raises OSError."""
    handle = _new_event(None, False, False, None)
    if not handle:
        raise _failed()
    return int(handle)


def _first_of(*events: int) -> int | None:
    """Which of these went off first; None for none within a BEAT."""
    index: int = _wait(len(events), (_HANDLE * len(events))(*events), False, int(BEAT * 1000))
    return index if index < len(events) else None


def _failed() -> OSError:
    return ctypes.WinError(ctypes.get_last_error())
