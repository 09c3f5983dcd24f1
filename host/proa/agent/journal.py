"""The journal: every event of an installation, on disk and for those who follow.

events.jsonl, one Event a line (proa.model.events), oldest first; the file before is kept as
events.jsonl.1. A line that cannot be read (a crash cut it, a newer Proa wrote it) is passed over.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import msgspec

from proa.model.events import EVENT_VERSION, Emit, Event, EventKind
from proa.model.problem import Problem
from proa.system.files import explain

log = logging.getLogger("proa.events")

SIZE = 512 << 10  # bytes a file may have before it is rotated: some 2,000 events
KEPT = 1000  # events in memory, for those who ask
MOST_WAITING = 256  # events that may wait for a follower; who reads more slowly is let go
MOST_WORDS = 1000  # characters of a message: some of the words come from a guest


class Journal:
    """Owned by the agent; `emit_for` gives everybody else a way to say something."""

    def __init__(self, path: Path, size: int = SIZE) -> None:
        self._path = path
        self._size = size
        self._events: deque[Event] = deque(read(path), maxlen=KEPT)
        self._number = self._events[-1].number if self._events else 0
        self._followers: set[asyncio.Queue[Event | None]] = set()
        self._cut = _ends_in_the_middle(path)

    def emit_for(self, machine: str) -> Emit:
        """An Emit whose events are that machine's (empty: the agent's)."""

        def emit(kind: EventKind, message: str, *, done: str = "", problem: Problem | None = None) -> None:
            self.add(machine, kind, message, done, problem)

        return emit

    def add(self, machine: str, kind: EventKind, message: str, done: str, problem: Problem | None) -> None:
        self._number += 1
        event = Event(
            number=self._number,
            time=round(time.time(), 3),
            kind=kind,
            message=message[:MOST_WORDS],
            machine=machine,
            done=done[:MOST_WORDS],
            problem=problem,
        )
        log.info("%s: %s: %s%s", machine or "agent", kind, event.message, f"; {event.done}" if done else "")
        self._events.append(event)
        self._write(event)
        for follower in list(self._followers):
            try:
                follower.put_nowait(event)
            except asyncio.QueueFull:
                self._let_go(follower)

    def _write(self, event: Event) -> None:
        line = msgspec.json.encode(event) + b"\n"
        try:
            if self._path.exists() and self._path.stat().st_size + len(line) > self._size:
                self._path.replace(_older(self._path))
                self._cut = False
            with open(self._path, "ab", opener=_private) as file:
                file.write(b"\n" + line if self._cut else line)
            self._cut = False
        except OSError as error:
            # A full disk is what an event may be about: it is kept in memory and told all the same.
            self._cut = True
            log.warning("%s", explain(error, "keep an event"))

    def last(self, count: int, machine: str = "") -> list[Event]:
        """The newest `count` events, oldest first; of one machine where it is named."""
        found = [event for event in self._events if not machine or event.machine == machine]
        return found[-count:] if count else []

    async def follow(self, count: int, machine: str = "") -> AsyncGenerator[Event]:
        """The newest `count` events and then every new one, until the journal is closed."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(MOST_WAITING)
        self._followers.add(queue)
        try:
            for event in self.last(count, machine):
                yield event
            while (news := await queue.get()) is not None:
                if not machine or news.machine == machine:
                    yield news
        finally:
            self._followers.discard(queue)

    def _let_go(self, follower: asyncio.Queue[Event | None]) -> None:
        self._followers.discard(follower)
        while follower.full():
            follower.get_nowait()
        follower.put_nowait(None)

    def close(self) -> None:
        """Let every follower go."""
        for follower in list(self._followers):
            self._let_go(follower)


def read(path: Path) -> list[Event]:
    """All events on disk that can be read, oldest first."""
    return [event for file in (_older(path), path) for event in _read(file)]


def _read(path: Path) -> Iterator[Event]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return
    for line in lines:
        try:
            event = msgspec.json.decode(line, type=Event)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if event.version == EVENT_VERSION:
            yield event


def _older(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def _ends_in_the_middle(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:  # it is not there, or empty
        return False


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)
