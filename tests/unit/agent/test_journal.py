"""The journal: kept over restarts and damage, bounded, and told to who follows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proa.agent.journal import KEPT, MOST_WAITING, MOST_WORDS, Journal, read
from proa.model.events import EventKind
from proa.model.problem import Problem


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def _say(journal: Journal, *words: str, machine: str = "m") -> None:
    for word in words:
        journal.emit_for(machine)(EventKind.STATE, word)


def test_events_outlive_the_agent_and_go_on_counting(path: Path) -> None:
    problem = Problem(code="guest-panicked", message="x", layer="kernel")
    Journal(path).emit_for("work")(EventKind.PROBLEM, "it panicked", done="started again", problem=problem)
    after = Journal(path)
    _say(after, "next")
    first, second = after.last(10)
    assert (first.number, first.machine, first.kind, first.done) == (1, "work", "problem", "started again")
    assert first.problem == problem and first.time > 0
    assert second.number == 2
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\xff\xfe\n", b"[]\n\n", b'{"version": 99}\n', b'{"version":1,"number":"x"}\n']
)
def test_a_damaged_line_is_passed_over_and_costs_no_other(path: Path, damage: bytes) -> None:
    _say(Journal(path), "before")
    with path.open("ab") as file:
        file.write(damage)
    _say(Journal(path), "after")
    assert [event.message for event in Journal(path).last(10)] == ["before", "after"]


def test_a_last_line_that_a_crash_cut_does_not_take_the_next_with_it(path: Path) -> None:
    _say(Journal(path), "one", "two")
    path.write_bytes(path.read_bytes()[:-20])
    _say(Journal(path), "three")
    assert [event.message for event in Journal(path).last(10)] == ["one", "three"]


def test_it_is_bounded_on_disk_and_in_memory(path: Path) -> None:
    journal = Journal(path, size=20_000)
    _say(journal, *(f"event {number} " + "x" * 5000 for number in range(KEPT + 50)))
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["events.jsonl", "events.jsonl.1"]
    assert all(entry.stat().st_size <= 20_000 for entry in path.parent.iterdir())
    assert len(journal.last(10_000)) == KEPT
    assert len(journal.last(1)[0].message) == MOST_WORDS
    numbers = [event.number for event in read(path)]
    assert numbers == sorted(numbers) and numbers[-1] == KEPT + 50


def test_a_disk_that_takes_nothing_silences_nobody(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "no-folder/events.jsonl")
    _say(journal, "all the same")
    assert [event.message for event in journal.last(5)] == ["all the same"]


async def test_followers_hear_their_machine_only_and_end_with_the_journal(path: Path) -> None:
    journal = Journal(path)
    _say(journal, "old", "older")
    heard: list[str] = []

    async def follow(machine: str) -> None:
        async for event in journal.follow(1, machine):
            heard.append(f"{machine}:{event.message}")

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(follow("m"))
        group.create_task(follow("other"))
        await asyncio.sleep(0)
        _say(journal, "new")
        _say(journal, "theirs", machine="other")
        while len(heard) < 3:
            await asyncio.sleep(0)
        journal.close()
    assert sorted(heard) == ["m:new", "m:older", "other:theirs"]


async def test_who_does_not_read_is_let_go(path: Path) -> None:
    journal = Journal(path)
    events = journal.follow(0)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        first = group.create_task(anext(events))
        await asyncio.sleep(0)
        _say(journal, *(str(number) for number in range(MOST_WAITING + 1)))
    assert first.result().number
    async with asyncio.timeout(5):
        rest = [event async for event in events]
    assert len(rest) < MOST_WAITING
