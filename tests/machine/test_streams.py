"""Long and two-way streams through the engine's socket: logs, attach, cp, save and load."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import IO

import pytest

from tests.support.clients import Docker

pytestmark = [pytest.mark.machine, pytest.mark.timeout(480)]

MIB = 1 << 20
BIG = 500 * MIB


def test_attach_with_a_half_closed_stdin(docker: Docker) -> None:
    """`echo hi | docker run -i busybox cat`: cat ends as its stdin does, and all of it arrives."""
    assert docker("run", "--rm", "-i", "busybox", "cat", input="hi\n").out == "hi"
    data = random.Random(3).randbytes(5 * MIB)
    counted = docker("run", "--rm", "-i", "busybox", "sha256sum", input=data)
    assert counted.out.split()[0] == hashlib.sha256(data).hexdigest()
    assert docker("run", "--rm", "-i", "busybox", "cat", input=data).raw == data


def test_stdout_and_stderr_stay_apart(docker: Docker) -> None:
    both = docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (both.out, both.err) == ("out", "err")


def test_exec_with_stdin(docker: Docker) -> None:
    container = docker("run", "-d", "busybox", "sleep", "300").out
    assert docker.straight("exec", "-i", container, "wc", "-c", input=b"x" * 100_000).out == "100000"
    assert docker("exec", container, "sh", "-c", "exit 5", status=None).status == 5
    docker("rm", "-f", container)


def test_logs_follow_live(docker: Docker) -> None:
    """Lines arrive as they are written, not when the container ends."""
    script = "i=0; while [ $i -lt 8 ]; do echo line $i; i=$((i+1)); sleep 1; done"
    container = docker("run", "-d", "busybox", "sh", "-c", script).out
    with docker.streaming("logs", "-f", container) as process:
        assert process.stdout is not None
        arrived = [(line.decode().strip(), time.monotonic()) for line in process.stdout]
        assert process.wait(10) == 0, "it ends with its container"
    assert [line for line, _ in arrived] == [f"line {number}" for number in range(8)]
    last_gaps = [later - earlier for (_, earlier), (_, later) in pairwise(arrived[4:])]
    assert min(last_gaps) > 0.3, f"the lines came in a heap: {last_gaps}"


def test_cp_both_ways(docker: Docker, tmp_path: Path) -> None:
    container = docker("run", "-d", "busybox", "sleep", "300").out
    source, back = tmp_path / "source", tmp_path / "back"
    (source / "inner").mkdir(parents=True)
    (source / "inner/data").write_bytes(random.Random(5).randbytes(2 * MIB))
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o755)
    (source / "link").symlink_to("inner/data")
    docker("cp", str(source), f"{container}:/copied")
    inside = docker("exec", container, "sha256sum", "/copied/inner/data").out.split()[0]
    assert inside == _hash(source / "inner/data")
    docker("exec", container, "sh", "-c", "echo guest > /copied/new")
    docker("cp", f"{container}:/copied", str(back))
    assert _hash(back / "inner/data") == inside
    assert (back / "run").stat().st_mode & 0o777 == 0o755
    assert (back / "link").readlink() == Path("inner/data")
    assert (back / "new").read_text() == "guest\n"
    docker("rm", "-f", container)


def test_events_arrive_live(docker: Docker) -> None:
    with docker.streaming("events", "--filter", "type=volume", "--format", "{{.Action}}") as process:
        seen: list[str] = []
        reader = threading.Thread(target=_lines_into, args=(process.stdout, seen))
        reader.start()
        for attempt in range(20):  # the stream may open after the first of them
            docker("volume", "create", f"event-{attempt}")
            reader.join(0.2)
            if seen:
                break
        assert seen and seen[0] == "create"
        process.terminate()
        reader.join(10)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_save_and_load_500_mb(docker: Docker, tmp_path: Path) -> None:
    """Out and in again with the same content: the engine hashes a layer when it loads it."""
    made = tmp_path / "big.tar"
    with made.open("wb") as stream:
        expected = _big_archive(stream)
    with made.open("rb") as stream:
        docker("import", "-", "big", input=stream, timeout=480)
    made.unlink()
    image = docker("image", "inspect", "--format", "{{.ID}}", "big").out
    saved = tmp_path / "saved.tar"
    docker("save", "-o", str(saved), "big", timeout=480)
    assert saved.stat().st_size > BIG
    with tarfile.open(saved) as archive:
        layers = [member for member in archive if member.size > BIG]
        assert len(layers) == 1
        layer = archive.extractfile(layers[0])
        assert layer is not None
        with tarfile.open(fileobj=layer) as content:
            inner = content.extractfile("big")
            assert inner is not None
            assert hashlib.file_digest(inner, "sha256").hexdigest() == expected  # type: ignore[arg-type]
    docker("rmi", "big", timeout=120)
    with saved.open("rb") as stream:
        docker("load", input=stream, timeout=480)
    assert docker("image", "inspect", "--format", "{{.ID}}", "big").out == image
    docker("rmi", "big", timeout=120)


def _big_archive(stream: IO[bytes]) -> str:
    """A tar archive with one file of BIG random bytes; their hash."""
    info = tarfile.TarInfo("big")
    info.size = BIG
    stream.write(info.tobuf())
    source, seen = random.Random(11), hashlib.sha256()
    for _ in range(BIG // MIB):
        block = source.randbytes(MIB)
        seen.update(block)
        stream.write(block)
    stream.write(bytes(2 * tarfile.BLOCKSIZE))
    return seen.hexdigest()


def _hash(path: Path) -> str:
    return hashlib.file_digest(io.BytesIO(path.read_bytes()), "sha256").hexdigest()


def _lines_into(stream: IO[bytes] | None, seen: list[str]) -> None:
    assert stream is not None
    seen.extend(line.decode().strip() for line in iter(stream.readline, b""))
