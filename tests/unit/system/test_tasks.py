from __future__ import annotations

import asyncio
import logging

import pytest

from proa.system.tasks import Tasks


async def test_a_failure_is_logged_with_the_tasks_name(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks("group")

    async def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), caplog.at_level(logging.ERROR):
        await tasks.start(fail(), name="work")
    await asyncio.sleep(0)
    assert "group: work" in caplog.text
    assert len(tasks) == 0


async def test_a_supervised_task_is_started_again_until_it_returns() -> None:
    tasks = Tasks("group")
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise OSError("again")

    await asyncio.wait_for(tasks.supervise(work, name="work", first_delay=0.001), 5)
    assert runs == 3


async def test_close_ends_all_and_nothing_starts_after_it() -> None:
    tasks = Tasks("group")
    task = tasks.start(asyncio.Event().wait(), name="forever")
    await tasks.close()
    assert task.cancelled()
    with pytest.raises(RuntimeError):
        tasks.start(asyncio.Event().wait(), name="late")
