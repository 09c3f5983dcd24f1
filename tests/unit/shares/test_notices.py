"""What waits for the guest, as scripts: where many repeats wait it is asked who watches, and tells those."""

from __future__ import annotations

import queue
import struct
from collections.abc import Iterator

import pytest

from proa.shares import protocol
from proa.shares.nodes import Node
from proa.shares.notices import MANY, MOST_MANY, Outbox
from proa.shares.protocol import Notice

FOLDER = 0o040000 >> 12
FILE = 0o100000 >> 12
pytestmark = [pytest.mark.timeout(30)]


class Guest:
    """Takes what is sent, and answers as it is told to."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self._sent: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self.connect()
        self.first = self.is_busy()

    def connect(self) -> None:
        self.outbox.begin(lambda code, body: self._sent.put((code, body)))

    def next(self) -> tuple[Notice, int, bytes]:
        """The next notice: its kind, its number, and for a repeat its name."""
        code, body = self._sent.get(timeout=10)
        self.outbox.arrived(1)
        [number] = struct.unpack_from("<Q", body)
        if code != Notice.REPEAT:
            return Notice(code), number, b""
        length = protocol.REPEAT_OUT.unpack_from(body)[3]
        return Notice(code), number, body[protocol.REPEAT_OUT.size :][:length]

    def repeated(self) -> bytes:
        """The name of the next repeat, which is carried out."""
        kind, number, name = self.next()
        assert kind == Notice.REPEAT
        self.outbox.repeat_ended(number, 0)
        return name

    def asked(self) -> int:
        """The number of the question who watches, which must come next."""
        kind, number, _ = self.next()
        assert kind == Notice.LOOK
        return number

    def is_busy(self) -> int:
        """With a first repeat: what comes meanwhile waits until it is ended."""
        self.outbox.changed(OTHER, b"first", b"m")
        return self.next()[1]

    def goes_on(self) -> None:
        self.outbox.repeat_ended(self.first, 0)

    def nothing_comes(self) -> bool:
        return self._sent.empty()


def node(number: int, kind: int = FILE) -> Node:
    return Node(number, (1, number, kind), None)


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.outbox.end()


NOISY, WATCHED, OTHER = node(10, FOLDER), node(11, FOLDER), node(12, FOLDER)


def many(guest: Guest, folder: Node = NOISY, count: int = MANY) -> None:
    """Changes behind which others wait."""
    for number in range(count):
        guest.outbox.changed(folder, b"%d" % number, b"m")


def test_few_repeats_are_made_without_a_question(guest: Guest) -> None:
    many(guest, count=MANY - 1)
    guest.goes_on()
    assert [guest.repeated() for _ in range(MANY - 1)] == [b"%d" % number for number in range(MANY - 1)]
    assert guest.outbox.quiet()


def test_of_many_those_are_repeated_that_somebody_watches(guest: Guest) -> None:
    many(guest)
    guest.outbox.changed(WATCHED, b"w", b"m")
    guest.goes_on()
    number = guest.asked()
    guest.outbox.watched(number, frozenset((WATCHED.number,)))
    assert guest.repeated() == b"w"
    assert guest.outbox.quiet()
    assert not guest.outbox.expects(NOISY, b"1")


def test_each_node_that_a_change_is_told_of_counts(guest: Guest) -> None:
    """A folder's names, a file itself wherever it is named, what is removed, and both ends of a move."""
    other = node(13, FOLDER)
    file, gone, moved, replaced = node(20), node(21), node(22), node(23)
    other.names[b"file"] = file
    many(guest)
    guest.outbox.changed(other, b"file", b"m")
    guest.outbox.removed(other, b"gone", gone)
    guest.outbox.moved((other, b"from"), (NOISY, b"to"), moved, None, None)
    guest.outbox.moved((other, b"over"), (NOISY, b"old"), node(24), replaced, None)
    guest.outbox.moved((other, b"in"), (WATCHED, b"in"), node(25), None, None)
    guest.outbox.moved((other, b"unseen"), (NOISY, b"unseen"), node(26), None, None)
    guest.goes_on()
    numbers = {one.number for one in (file, gone, moved, replaced, WATCHED)}
    guest.outbox.watched(guest.asked(), frozenset(numbers))
    assert [guest.repeated() for _ in range(5)] == [b"file", b"gone", b"from", b"over", b"in"]
    assert guest.outbox.quiet()


def test_what_the_guest_needs_for_itself_is_repeated_without_a_watcher(guest: Guest) -> None:
    """A folder's move, which takes along what is mounted in it, and that nothing is true any more."""
    many(guest)
    guest.outbox.moved((OTHER, b"a"), (OTHER, b"b"), node(30, FOLDER), None, lambda: None)
    guest.outbox.forget_all(node(1, FOLDER))
    guest.goes_on()
    guest.outbox.watched(guest.asked(), frozenset())
    assert [guest.repeated(), guest.repeated()] == [b"a", b""]


def test_an_answer_does_not_hold_for_what_happened_after_the_question(guest: Guest) -> None:
    many(guest)
    guest.goes_on()
    number = guest.asked()
    guest.outbox.changed(NOISY, b"late", b"m")
    guest.outbox.changed(NOISY, b"7", b"m")  # once more, and watched by now
    guest.outbox.changed(NOISY, b"8", b"a")
    guest.outbox.watched(number, frozenset())
    assert [guest.repeated() for _ in range(3)] == [b"7", b"8", b"late"]


def test_where_it_cannot_be_told_all_are_repeated(guest: Guest) -> None:
    many(guest)
    guest.goes_on()
    guest.outbox.watched(guest.asked(), None)
    assert [guest.repeated() for _ in range(MANY)] == [b"%d" % number for number in range(MANY)]


def test_repeats_wait_for_the_answer_and_invalidations_do_not(guest: Guest) -> None:
    many(guest)
    guest.goes_on()
    number = guest.asked()
    guest.outbox.entry(WATCHED, b"name")
    assert guest.next()[:2] == (Notice.INVAL_ENTRY, WATCHED.number)
    assert guest.nothing_comes()
    guest.outbox.watched(number + 1, frozenset())  # of another question
    guest.outbox.changed(WATCHED, b"w", b"m")
    assert guest.nothing_comes()
    guest.outbox.watched(number, frozenset((NOISY.number,)))
    assert guest.repeated() == b"0"


def test_a_question_is_asked_again_over_the_next_stream(guest: Guest) -> None:
    many(guest)
    guest.goes_on()
    first = guest.asked()
    guest.connect()
    second = guest.asked()
    assert second > first
    guest.outbox.watched(first, frozenset((NOISY.number,)))  # of a relay that may have ended
    guest.outbox.watched(second, frozenset())
    assert guest.outbox.quiet()


def test_it_is_asked_less_often_where_most_are_watched(guest: Guest) -> None:
    """As when a whole tree is watched: then the questions would only be in the way."""
    worth = [MANY << turn for turn in range(7)]
    for count in (*worth, MOST_MANY, MOST_MANY):
        many(guest, count=count - 1)
        guest.goes_on()
        assert all(guest.repeated() for _ in range(count - 1))
        guest.first = guest.is_busy()
        many(guest, count=count)
        guest.goes_on()
        guest.outbox.watched(guest.asked(), frozenset((NOISY.number,)))
        assert all(guest.repeated() for _ in range(count))
        guest.first = guest.is_busy()
    many(guest, count=MOST_MANY)
    guest.goes_on()
    guest.outbox.watched(guest.asked(), frozenset())
    guest.first = guest.is_busy()
    many(guest)
    guest.goes_on()
    guest.outbox.watched(guest.asked(), frozenset())
    assert guest.outbox.quiet()
