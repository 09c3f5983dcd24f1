"""The share server's threads: frames from a stream to the operations, and replies back.

One thread reads, answers, and reads again, for nearly all answers take less time than waking another one.
What takes long by its nature is answered after another thread has begun to read; whose answer turns out to
take long has the reading taken away. So a slow disk holds up as many requests as there are threads.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from proa.shares import again, protocol
from proa.shares.anticipation import Ahead
from proa.shares.handles import Body
from proa.shares.operations import Operations
from proa.shares.protocol import FrameError, InitFlag, Op, Refused, Request
from proa.shares.records import Agreed, Answered, Begun, text
from proa.shares.tally import Tally
from proa.shares.tree import OutOfReach
from proa.system.sockets import receive_now, send_both

log = logging.getLogger("proa.shares")

THREADS = 8
# Answers that are kept for a request that is sent again after a cut: more than can be under way at once.
KEPT = 2048
KEPT_ON_DISK = 256
# What must not be done twice: a second time it would fail, or do harm.
_ONCE = frozenset(
    (
        Op.SYMLINK, Op.MKNOD, Op.MKDIR, Op.UNLINK, Op.RMDIR, Op.RENAME, Op.RENAME2, Op.LINK, Op.CREATE,
        Op.OPEN, Op.OPENDIR, Op.RELEASE, Op.RELEASEDIR, Op.SETXATTR, Op.REMOVEXATTR, Op.WRITE, Op.LOOKUP,
        Op.COPY_FILE_RANGE,
    )
)  # fmt: skip
_LONG = frozenset((Op.FSYNC, Op.FSYNCDIR, Op.SYNCFS, Op.FALLOCATE, Op.COPY_FILE_RANGE))
LONG = 0.01  # seconds that an answer may take before another thread reads
CLOSE = 0.0002  # seconds between an answer and the next request: a program that does one after the other
_MUCH = 64 << 10  # bytes whose copying another thread's waking is worth
_AT_ONCE = 2 * _MUCH  # bytes to read while it is not known how long the frame is
_OF_THE_RELAY = frozenset((Op.HELLO, Op.TOLD, Op.REPEATED, Op.RELEASED, Op.WATCHED))


class Answers:
    """Which requests are done or under way, so that none is done twice. Safe for several threads."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._known: OrderedDict[int, tuple[int, bytes] | None] = OrderedDict()  # None: under way
        self._unsure: set[int] = set()

    def begin(self, unique: int) -> tuple[int, bytes] | None:
        """None where it is to be done now; else the error and the body that it was answered with."""
        resent, plain = unique & protocol.RESENT, unique & ~protocol.RESENT
        with self._ready:
            if resent and plain in self._known:
                self._ready.wait_for(lambda: self._known.get(plain, (0, b"")) is not None)
                return self._known.get(plain)
            self._known[plain] = None
        return None

    def end(self, unique: int, number: int, body: bytes) -> None:
        with self._ready:
            self._known[unique & ~protocol.RESENT] = (number, body)
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
            self._ready.notify_all()

    def give_up(self, unique: int) -> None:
        """It was not done: whoever gets it again is to do it."""
        with self._ready:
            self._known.pop(unique & ~protocol.RESENT, None)
            self._ready.notify_all()

    def all(self) -> list[tuple[int, int, bytes]]:
        """Number, error and body of the newest answers: those that may not have arrived."""
        with self._ready:
            done = [(unique, *known) for unique, known in self._known.items() if known is not None]
        return done[-KEPT_ON_DISK:]

    def restore(self, answers: list[tuple[int, int, bytes]], unsure: Iterable[int] = ()) -> None:
        """Go on from an earlier server's; it was at those that are `unsure` when it was killed."""
        with self._ready:
            self._known.update((unique, (number, body)) for unique, number, body in answers[-KEPT:])
            self._unsure = set(unsure)

    def unsure(self) -> set[int]:
        """Those of which it could not be known whether they were carried out, were this server killed now."""
        with self._ready:
            return self._unsure | {unique for unique, known in self._known.items() if known is None}

    def is_unsure(self, unique: int) -> bool:
        """Whether it may have been carried out by an earlier server. Tells it once."""
        if not self._unsure or not unique & protocol.RESENT:
            return False
        with self._ready:
            plain = unique & ~protocol.RESENT
            unsure = plain in self._unsure
            self._unsure.discard(plain)
        return unsure

    def clear(self) -> None:
        with self._ready:
            self._known.clear()
            self._unsure.clear()


class Turn:
    """Whose turn it is to read a stream."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._reader: int | None = None  # a thread's number
        self._answering = 0  # counts answers that the reader gives itself; even between them
        self._busy = threading.Event()
        self._ended = False
        threading.Thread(target=self._watch, name="turns", daemon=True).start()

    def take(self) -> None:
        with self._free:
            if self._reader != threading.get_ident():
                self._free.wait_for(lambda: self._reader is None)
                self._reader = threading.get_ident()

    def give(self) -> None:
        with self._free:
            if self._reader == threading.get_ident():
                self._reader = None
                self._free.notify()

    def begin_answer(self) -> None:
        """The reader answers, and keeps its turn unless that takes long."""
        self._answering += 1
        if not self._busy.is_set():
            self._busy.set()

    def end_answer(self) -> None:
        with self._free:
            if self._reader == threading.get_ident():
                self._answering += 1

    def end(self) -> None:
        self._ended = True
        self._busy.set()

    def _watch(self) -> None:
        """While there is something to do, take the turn from a reader that is at the same answer for long."""
        before, pause = 0, threading.Event()
        while not self._ended:
            self._busy.wait()
            pause.wait(LONG)
            with self._free:
                if self._answering == before:
                    self._busy.clear()  # quiet, or held up
                    if self._answering != before:  # it began this moment, and saw itself watched
                        self._busy.set()
                    elif before % 2:
                        self._answering += 1
                        self._reader = None
                        self._free.notify()
                before = self._answering


class Channel:
    """One stream to the guest. Reading and writing each belong to one thread at a time."""

    def __init__(self, stream: socket.socket, flush: Callable[[], None]) -> None:
        """`flush` is called before anything is sent."""
        self._stream = stream
        self._flush = flush
        self.turn = Turn()
        self._writing = threading.Lock()
        self._buffer = bytearray(_AT_ONCE)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._closely = False  # the last wait for something was a short one

    def read(self, large: memoryview) -> memoryview | None:
        """The next frame, which the caller owns; None at the end. Raises FrameError, OSError.

        One of more than `_MUCH` bytes is in `large`, which has MAX_FRAME: it must be done before the next.
        """
        if not self._fill(4):
            return None
        length = protocol.frame_length(self._view[self._start : self._start + 4])
        if length > _MUCH:
            return self._read_large(large[:length])
        if not self._fill(length):
            return None
        frame = memoryview(bytes(self._view[self._start : self._start + length]))
        self._start += length
        return frame

    def _read_large(self, frame: memoryview) -> memoryview | None:
        """From the stream to where it stays, but for what came with what was before it."""
        have = min(len(frame), self._end - self._start)
        frame[:have] = self._view[self._start : self._start + have]
        self._start += have
        while have < len(frame):
            taken = self._stream.recv_into(frame[have:], 0, socket.MSG_WAITALL)
            if not taken:
                return None
            have += taken
        return frame

    def _fill(self, wanted: int) -> bool:
        if self._start + wanted > len(self._buffer):
            rest = self._end - self._start
            self._buffer[:rest] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, rest
        while self._end - self._start < wanted:
            if self._start == self._end:
                self._start = self._end = 0
            taken = self._take()
            if not taken:
                return False
            self._end += taken
        return True

    def _take(self) -> int:
        """How many bytes came; 0 at the end. Looks by itself for a moment where requests come close together.

        To be woken takes longer than most answers do: of a thousand writes of a byte one took 0.15 ms with
        that, and 0.09 without. Who asks now and then costs nothing more.
        """
        room, began = self._view[self._end :], time.perf_counter()
        while self._closely and time.perf_counter() - began < CLOSE:
            if (taken := receive_now(self._stream, room)) is not None:
                return taken
        taken = self._stream.recv_into(room)
        self._closely = time.perf_counter() - began < CLOSE
        return taken

    def write(
        self,
        unique: int,
        number: int,
        body: Body,
        last: Callable[[Body], tuple[bytes, Body]] = lambda body: (b"", body),
    ) -> None:
        """Send a reply, or a notice (`unique` 0, `number` its code negated). Raises OSError.

        `last` is called when nothing else is sent any more, for what goes before the body, and the body.
        """
        with self._writing:
            head, body = last(body)
            head += protocol.out_header(unique, -number, len(body))
            self._flush()
            if len(body) < 4096:
                self._stream.sendall(head + body)
                return
            send_both(self._stream, head, body)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)  # wakes who reads
        self._stream.close()
        self.turn.end()


class Server:
    """Serves one mount, over one stream after another."""

    def __init__(
        self, operations: Operations, threads: int = THREADS, flush: Callable[[], None] = lambda: None
    ) -> None:
        """`flush` returns when all that the operations have noted is written down."""
        self._operations = operations
        self._note = operations.tree.note
        self._flush = flush
        self._count = threads
        self.answers = Answers()
        self.tally = Tally()
        self._channel: Channel | None = None
        self._threads: list[threading.Thread] = []

    def serve(self, stream: socket.socket, ended: Callable[[], None] = lambda: None) -> None:
        """Answer on this stream from now on; an earlier one is closed, and what it asked is ended first.

        `ended` is called from another thread when the guest, or the network, has ended the stream.
        """
        self.close()
        channel = self._channel = Channel(stream, self._flush)
        self._operations.locks.begin(lambda unique, number: channel.write(unique, number, b""))
        self._threads = [
            threading.Thread(target=self._work, args=(channel,), name=f"share {number}", daemon=True)
            for number in range(self._count)
        ]
        for thread in self._threads:
            thread.start()
        threading.Thread(target=self._tell, args=(channel, self._threads, ended), daemon=True).start()

    def _tell(self, channel: Channel, threads: list[threading.Thread], ended: Callable[[], None]) -> None:
        for thread in threads:
            thread.join()
        if self._channel is channel:
            ended()

    def close(self) -> None:
        """End the stream, and wait for what is under way."""
        channel, self._channel = self._channel, None
        self._operations.outbox.end()
        self._operations.locks.end()
        if channel is not None:
            channel.close()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _work(self, channel: Channel) -> None:
        large = memoryview(mmap.mmap(-1, protocol.MAX_FRAME))  # takes no memory before it is used
        try:
            while True:
                channel.turn.take()
                frame = channel.read(large)
                if frame is None:
                    return
                request = protocol.read_request(frame)
                if request.op in _OF_THE_RELAY:
                    self._hear(channel, request)  # before anything that comes after it
                    continue
                if _takes_long(request):
                    channel.turn.give()
                    self._answer(channel, request)
                else:
                    channel.turn.begin_answer()
                    self._answer(channel, request)
                    channel.turn.end_answer()
        except FrameError as error:
            log.error("the guest does not speak FUSE: %s", error)
        except OSError as error:
            log.debug("the stream has ended: %s", error)
        finally:
            channel.turn.give()
            with contextlib.suppress(OSError):
                channel.close()

    def _answer(self, channel: Channel, request: Request) -> None:
        once, unsure = request.op in _ONCE, again.matters(request)
        if once and (known := self.answers.begin(request.unique)) is not None:
            channel.write(request.unique, known[0], protocol.untrusted(request.op, known[1]))
            return
        begun = time.monotonic()
        is_news = self._operations.news(request)
        if unsure:
            self._note(Begun(request.unique & ~protocol.RESENT))
            self._flush()
        try:
            number, body = self._carry_out(request)
        except OutOfReach:
            self.answers.give_up(request.unique)  # the guest sends it again, over the next stream
            raise
        except BaseException:
            if once:
                self.answers.end(request.unique, protocol.linux_errno(None), b"")
            raise
        self.tally.add(request.op, begun, time.monotonic())
        if once:
            self.answers.end(request.unique, number, bytes(body or b""))
        if unsure:
            self._note(Answered(request.unique & ~protocol.RESENT, number, text(bytes(body or b""))))
        if body is not None:
            ahead = self._operations.ahead(request, body) if not number else ()
            channel.write(
                request.unique, number, body, lambda body: self._last(request, body, ahead, is_news)
            )

    def _last(
        self, request: Request, body: Body, ahead: Sequence[Ahead], is_news: Callable[[], bool]
    ) -> tuple[bytes, Body]:
        """Notices that go with an answer, and the answer, which a notice may have overtaken.

        The guest's kernel may still be at the answer when it takes the next notice. It heeds that but with
        SETATTR, of which it keeps what is older then: so nothing is told for good while the host is busy.
        """
        if is_news() or (request.op == Op.SETATTR and self._operations.own.others_are_at_it()):
            body = protocol.untrusted(request.op, body)
        return self._operations.anticipation.notices(ahead), body

    def _hear(self, channel: Channel, request: Request) -> None:
        """The relay itself says something; it has no use for an answer."""
        outbox = self._operations.outbox
        if request.op == Op.TOLD:
            outbox.arrived(request.pid)
        elif request.op == Op.RELEASED:
            self._operations.handles.close(request.body)
        elif request.op == Op.REPEATED:
            outbox.repeat_ended(protocol.fields("<Q", request.body)[0], request.pid)
        elif request.op == Op.WATCHED:
            number, nodes = protocol.watched(request.body)
            outbox.watched(number, nodes if not request.pid else None)
        else:
            outbox.begin(lambda code, body: channel.write(0, -code, body))
            self._operations.hear_changes(request.pid)

    def _carry_out(self, request: Request) -> tuple[int, Body | None]:
        """Linux' number of the error, and the body."""
        try:
            if request.op == Op.INIT:
                self.answers.clear()  # another mount, whose numbers begin anew
                tree = self._operations.tree
                agreed = protocol.answer_init(request.body, locks=self._operations.locks.with_host)
                tree.opens_no_folders = bool(agreed.flags & InitFlag.NO_OPENDIR_SUPPORT)
                tree.asks_for_locks = bool(agreed.flags & InitFlag.POSIX_LOCKS)
                self._note(Agreed(tree.opens_no_folders, tree.asks_for_locks))
                return 0, agreed.reply
            if self.answers.is_unsure(request.unique):
                return 0, again.answer(self._operations, request)
            return 0, self._operations.answer(request)
        except Refused as error:
            return error.number, b""
        except OutOfReach:
            raise
        except OSError as error:
            return protocol.linux_errno(error.errno), b""
        except ValueError as error:
            # A number that the system cannot take: an offset below 0, or a NUL where none may be.
            log.info("a request with bad numbers: %s", error)
            return protocol.linux_errno(22), b""


def _takes_long(request: Request) -> bool:
    if request.op == Op.READ:
        return protocol.fields("<QQI", request.body)[2] > _MUCH
    return request.op in _LONG or len(request.body) > _MUCH
