"""Fetching an image's archive: resumed where it broke off, bounded by its signed manifest, never half taken.

The manifest comes first; until its signature, version and architecture are right, no more than its bound is
taken, and after that exactly as many bytes as it makes. What comes may come slowly, but not never.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import aiohttp
import msgspec
from yarl import URL

from proa.images import archive
from proa.images.archive import Head
from proa.images.manifest import Manifest
from proa.images.transfer import (
    FORMAT,
    MOST_REDIRECTS,
    CutError,
    Kept,
    answer_wrong,
    ask,
    check_url,
    judge,
    redirected,
    shown,
)
from proa.model.errors import ProaError
from proa.model.sizes import MIB
from proa.system.files import explain, make_private_folder, read_bytes, write_atomic
from proa.system.locks import FileLock
from proa.system.memory import free_disk

log = logging.getLogger("proa.images")

CHUNK = 64 << 10
Admit = Callable[[bytes, bytes], Manifest]  # raises ProaError where the image may not be taken in
Say = Callable[[str, float | None], None]  # message, fraction 0..1


@dataclass(frozen=True)
class Patience:
    """How long a server may take its time."""

    window: float = 30.0  # seconds in which at least `least` bytes must come, headers included
    least: int = 16 << 10
    tries: int = 4  # in a row that bring less than `step` of what was not there yet
    step: int = 1 << 20
    pause: float = 1.0  # seconds before the second try; doubles


DEFAULT = Patience()


class Part:
    """A half download and what proves that its rest belongs to it."""

    def __init__(self, folder: Path, url: str) -> None:
        name = hashlib.sha256(url.encode()).hexdigest()[:24]
        self.url = url
        self.path = folder / f"{name}.part"
        self._state = folder / f"{name}.json"
        self._lock_path = folder / f"{name}.lock"
        self._lock: FileLock | None = None
        self._file: BinaryIO | None = None
        self.size = 0

    def open(self) -> None:
        """Raises ProaError `fetch-running`."""
        make_private_folder(self.path.parent)
        self._lock = FileLock.try_acquire(self._lock_path)
        if self._lock is None:
            raise ProaError("fetch-running", f"{shown(self.url)} is being fetched already")
        try:
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
            self._file = os.fdopen(os.open(self.path, flags, 0o600), "r+b", buffering=0)
            self.size = self._file.seek(0, os.SEEK_END)
        except OSError as error:
            self.close()
            raise explain(error, f"open {self.path}") from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def discard(self) -> None:
        for path in (self.path, self._state, self._lock_path):
            path.unlink(missing_ok=True)

    def kept(self) -> Kept | None:
        """What the last answer said; None where that cannot be read, so that all is fetched anew."""
        try:
            kept = msgspec.json.decode(read_bytes(self._state), type=Kept)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError, ProaError):
            return None
        return kept if (kept.format, kept.url) == (FORMAT, self.url) else None

    def begin(self, validator: str) -> None:
        """Begin anew, with an answer that can be gone on with if it has a validator."""
        self._truncate()
        write_atomic(self._state, msgspec.json.encode(Kept(FORMAT, self.url, validator)))

    def _truncate(self) -> None:
        assert self._file is not None
        self._file.truncate(0)
        self._file.seek(0)
        self.size = 0

    def append(self, data: bytes) -> None:
        assert self._file is not None
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise explain(error, f"write {self.path}") from error
        self.size += len(data)

    def beginning(self) -> bytes:
        """As much as a head may have."""
        assert self._file is not None
        self._file.seek(0)
        data = b""
        while chunk := self._file.read(archive.MOST_HEAD - len(data)):
            data += chunk
        self._file.seek(0, os.SEEK_END)
        return data


class Fetch:
    """One archive's way from a server to the downloads' folder."""

    def __init__(self, url: str, folder: Path, admit: Admit, say: Say, patience: Patience = DEFAULT) -> None:
        self.url = check_url(url)
        self.part = Part(folder, url)
        self._admit = admit
        self._say = say
        self._patience = patience
        self._length: int | None = None  # of the whole archive, once its manifest is believed
        self._told = -1.0

    async def run(self) -> Path:
        """The whole archive's file, not yet checked but for its head; `part.discard` when it is done with.

        Raises ProaError; what can be gone on with is kept only where the transfer itself broke off.
        """
        self.part.open()
        try:
            self._look_at_what_is_there()
            await self._tries()
        except ProaError as error:
            if error.code not in ("fetch-incomplete", "disk-full"):
                self.part.discard()
            raise
        finally:
            self.part.close()
        return self.part.path

    def _look_at_what_is_there(self) -> None:
        """What an earlier run left counts only if its head is believed now."""
        try:
            self._look()
        except ProaError as error:
            log.info("%s: begun anew: %s", shown(self.url), error)
            self.part.begin("")
            self._length = None
        if self._length is not None and self.part.size > self._length:
            self.part.begin("")

    async def _tries(self) -> None:
        patience, best, left = self._patience, self.part.size, self._patience.tries
        while self._length is None or self.part.size < self._length:
            try:
                await self._transfer()
            except CutError as cut:
                reason = str(cut)
            except (aiohttp.ClientSSLError, ssl.SSLError) as error:
                raise answer_wrong(self.url, f"its certificate is not trusted: {error}") from error
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
            else:
                continue
            left = patience.tries if self.part.size >= best + patience.step else left - 1
            best = max(best, self.part.size)
            if not left:
                raise ProaError(
                    "fetch-incomplete",
                    f"{shown(self.url)} could not be fetched whole",
                    why=reason,
                    hint="what came is kept: the same command goes on where this one stopped",
                )
            pause = patience.pause * 2 ** (patience.tries - left - 1) if left < patience.tries else 0
            self._say(f"{reason}; trying again", None)
            await asyncio.sleep(pause)

    async def _transfer(self) -> None:
        """One connection, until all is there or it breaks off (CutError, aiohttp's errors)."""
        kept, have = self.part.kept(), self.part.size
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._patience.window)
        # The system's proxy is for the way out; what is asked of this computer takes no detour.
        outward = self.url.startswith("https:")
        async with aiohttp.ClientSession(
            timeout=timeout, auto_decompress=False, trust_env=outward
        ) as session:
            async with asyncio.timeout(self._patience.window):
                response = await self._answer(session, ask(have, kept))
            with contextlib.closing(response):
                try:
                    going = judge(self.url, response.status, response.headers, have, kept)
                except CutError:
                    if response.status == 416:
                        self.part.begin("")
                        self._length = None
                    raise
                if going.offset == 0:
                    self.part.begin(going.validator)
                    self._length = None
                await self._take(response, going.total)

    async def _answer(
        self, session: aiohttp.ClientSession, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        url = self.url
        for _ in range(MOST_REDIRECTS + 1):
            response = await session.get(URL(url, encoded=True), headers=headers, allow_redirects=False)
            if response.status not in (301, 302, 303, 307, 308):
                return response
            response.close()
            url = redirected(url, response.headers.get("Location", ""))
        raise answer_wrong(self.url, f"it leads on and on, more than {MOST_REDIRECTS} times")

    async def _take(self, response: aiohttp.ClientResponse, total: int | None) -> None:
        loop = asyncio.get_running_loop()
        ends, got = loop.time() + self._patience.window, 0
        while self._length is None or self.part.size < self._length:
            try:
                async with asyncio.timeout_at(ends):
                    chunk = await response.content.read(CHUNK)
            except TimeoutError:
                if got < self._patience.least:
                    raise CutError(f"only {got} bytes came in {self._patience.window:.0f} s") from None
                ends, got = loop.time() + self._patience.window, 0
                continue
            if not chunk:
                raise CutError("the server ended the connection before all was there")
            if loop.time() > ends and got >= self._patience.least:
                ends, got = loop.time() + self._patience.window, 0
            got += len(chunk)
            self.part.append(chunk)
            if self._length is None:
                self._look()
            if self._length is not None:
                self._bound(total)

    def _look(self) -> None:
        """Believe or refuse the head, as soon as it is whole."""
        head: Head | None = archive.read_head(self.part.beginning())
        if head is None:
            return
        manifest = self._admit(head.manifest, head.signature)
        length = archive.length(head, manifest)
        needed, free = length - self.part.size + manifest.size, free_disk(self.part.path)
        if needed > free:
            raise ProaError(
                "disk-full",
                f"there is no room for the image {manifest.id}",
                why=f"{needed // MIB} MiB are needed, and {free // MIB} MiB are free",
                hint="free some disk space and try again",
            )
        self._length = length

    def _bound(self, total: int | None) -> None:
        assert self._length is not None
        if total is not None and total != self._length:
            raise answer_wrong(
                self.url, f"the server says {total} bytes, and the signed manifest {self._length}"
            )
        if self.part.size > self._length:
            raise answer_wrong(self.url, "more comes than the signed manifest says")
        fraction = self.part.size / self._length
        if fraction - self._told >= 0.01 or fraction == 1:
            self._told = fraction
            self._say(f"fetching {self._length // MIB} MiB", fraction)
