"""A process that has confined itself reaches nothing else, whatever it is made to try."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.share_mounts import REPOSITORY, can_confine

if sys.platform != "linux":
    pytest.skip("only Linux has a way", allow_module_level=True)

from proa.system import confinement

_TRIES = """
import errno, json, os, socket, sys, threading
from pathlib import Path
from proa.system import beneath, confinement

reads, writes, outside, port = sys.argv[1:]
before = os.open(outside + "/canary", os.O_RDONLY)
folders = [[beneath.open_root(os.fsencode(path))] for path in (reads, writes)]
assert confinement.confine(*folders)

def outcome(call, *given):
    try:
        return call(*given)
    except OSError as error:
        return errno.errorcode[error.errno]

found = {}
def work():
    found.update({
        "read": outcome(Path(reads, "file").read_text),
        "written to read": outcome(Path(reads, "file").write_text, "x"),
        "written": outcome(Path(writes, "new").write_text, "x"),
        "moved within": outcome(os.rename, writes + "/new", writes + "/below/new"),
        "moved out": outcome(os.rename, writes + "/below/new", outside + "/new"),
        "linked in": outcome(os.link, outside + "/canary", writes + "/canary"),
        "outside": outcome(Path(outside, "canary").read_text),
        "through a link": outcome(Path(writes, "way-out").read_text),
        "listed": outcome(os.listdir, outside),
        "cut": outcome(os.truncate, outside + "/canary", 0),
        "passwords": outcome(Path("/etc/passwd").read_text),
        "itself": outcome(Path("/proc/self/environ").read_bytes),
        "run": outcome(os.execv, "/bin/true", ["true"]),
        "open before": outcome(os.read, before, 100).decode(),
    })
    with socket.socket() as connection:
        found["connected"] = outcome(connection.connect, ("127.0.0.1", int(port)))
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(json.dumps(found))
"""


@pytest.mark.skipif(not can_confine(), reason="this kernel has no Landlock")
def test_only_what_was_named_is_left(tmp_path: Path) -> None:
    reads, writes, outside = (tmp_path / name for name in ("reads", "writes", "outside"))
    for folder in (reads, writes / "below", outside):
        folder.mkdir(parents=True)
    (reads / "file").write_text("readable")
    (outside / "canary").write_text("canary")
    (writes / "way-out").symlink_to(outside / "canary")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        argv = [sys.executable, "-c", _TRIES, str(reads), str(writes), str(outside), str(port)]
        environ = {**os.environ, "PYTHONPATH": str(REPOSITORY / "host")}
        done = subprocess.run(argv, env=environ, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert found.pop("moved out") in ("EACCES", "EXDEV")
    assert found.pop("linked in") in ("EACCES", "EXDEV")
    assert found == {
        "read": "readable",
        "written to read": "EACCES",
        "written": 1,
        "moved within": None,
        "outside": "EACCES",
        "through a link": "EACCES",
        "listed": "EACCES",
        "cut": "EACCES",
        "passwords": "EACCES",
        "itself": "EACCES",
        "run": "EACCES",
        "open before": "canary",
        "connected": "EACCES",
    }
    assert (outside / "canary").read_text() == "canary"


def test_a_system_without_a_way_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not confinement.confine([], [])
