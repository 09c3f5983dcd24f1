"""Long and two-way streams through the engine's socket: logs, attach, cp, save and load."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support.clients import Docker

pytestmark = [pytest.mark.machine, pytest.mark.timeout(480)]

MIB = 1 << 20
BIG = 100 * MIB


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
def test_load_and_save_100_mb(docker: Docker, tmp_path: Path) -> None:
    """In and out again with the same content: the engine hashes a layer when it loads it."""
    made, saved = tmp_path / "big.tar", tmp_path / "saved.tar"
    identity, expected = _big_image(made)
    with made.open("rb") as stream:
        docker("load", input=stream, timeout=480)
    made.unlink()
    assert docker("image", "inspect", "--format", "{{.ID}}", "big").out == identity
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


def _big_image(path: Path) -> tuple[str, str]:
    """An image with one file of BIG random bytes, as `docker save` writes it; its id, and the hash."""
    layer = path.with_name("layer.tar")
    seen = hashlib.sha256()
    with tarfile.open(layer, "w") as archive:
        info = tarfile.TarInfo("big")
        info.size = BIG
        archive.addfile(info, _Random(BIG, seen))
    with layer.open("rb") as stream:
        diff = hashlib.file_digest(stream, "sha256").hexdigest()
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{diff}"]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    manifest = [{"Config": "config.json", "RepoTags": ["big:latest"], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        for name, content in (("config.json", config), ("manifest.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        archive.add(layer, "layer.tar")
    layer.unlink()
    return "sha256:" + hashlib.sha256(config).hexdigest(), seen.hexdigest()


class _Random(io.RawIOBase):
    """So many random bytes, the same every time, counted in a hash as they are read."""

    def __init__(self, size: int, seen: Any) -> None:
        self._left, self._seen, self._source = size, seen, random.Random(11)

    def read(self, size: int = -1) -> bytes:
        block = self._source.randbytes(min(self._left, size if size >= 0 else self._left))
        self._left -= len(block)
        self._seen.update(block)
        return block


def _hash(path: Path) -> str:
    return hashlib.file_digest(io.BytesIO(path.read_bytes()), "sha256").hexdigest()


def _lines_into(stream: IO[bytes] | None, seen: list[str]) -> None:
    assert stream is not None
    seen.extend(line.decode().strip() for line in iter(stream.readline, b""))
