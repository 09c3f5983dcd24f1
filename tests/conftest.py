"""What all tests share: one that not even its time-out ends, ends the run, and says where it hangs."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
from collections.abc import Callable, Generator, Iterator

import pytest

# Seconds after a test's own time-out: this raises an error in the main thread, which does nothing for another
# thread in a call that never returns, nor for a request to a mount whose server is silent.
GRACE = 90
_STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STDERR] = os.dup(2)  # nothing is captured yet


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    # By a timer, for pytest forgets what Python's own watchdog shall do as soon as a test has failed.
    with unless_it_ends(time_limit(item) + GRACE, _end, item.config.stash[_STDERR], item.nodeid):
        return (yield)


@contextlib.contextmanager
def unless_it_ends(seconds: float, call: Callable[..., None], *given: object) -> Iterator[None]:
    """`call` from another thread, unless the block has ended by then."""
    watchdog = threading.Timer(seconds, call, given)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def time_limit(item: pytest.Item) -> float:
    """Seconds after which pytest-timeout ends a test."""
    mark = item.get_closest_marker("timeout")
    return float(mark.args[0] if mark else item.config.getini("timeout"))


def _end(stderr: int, name: str) -> None:
    os.write(stderr, f"\n{name} hangs, and its time-out does not end it:\n".encode())
    faulthandler.dump_traceback(stderr)
    os._exit(1)
