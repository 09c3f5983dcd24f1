"""What is written for each system, read back by the system's own reader where it is here."""

from __future__ import annotations

import os
import plistlib
import shutil
from pathlib import Path

import pytest

from proa.system import login_files
from tests.support.commands import run

ODD = ["/opt/100% of it/py thon", "-m", 'pro"a$HOME', "back\\slash", "it's"]


def test_units_say_what_they_start_and_where_they_listen() -> None:
    units = login_files.systemd_units("proa", ["/usr/bin/proa", "agent"], "%t/proa", {})
    assert sorted(units) == ["proa-engine@.socket", "proa.service", "proa.socket"]
    assert "ExecStart=/usr/bin/proa agent\n" in units["proa.service"]
    assert "KillMode=process\n" in units["proa.service"]  # machines outlive their agent
    assert "Environment=" not in units["proa.service"]
    listens = [line for line in units["proa.socket"].splitlines() if line.startswith("ListenStream=")]
    assert listens == ["ListenStream=%t/proa/agent.sock", "ListenStream=%t/proa/default/docker.sock"]
    assert "ListenStream=%t/proa/%i/docker.sock\n" in units["proa-engine@.socket"]
    assert "Service=proa.service\n" in units["proa-engine@.socket"]
    for name in ("proa.socket", "proa-engine@.socket"):
        assert "SocketMode=0600\nDirectoryMode=0700\n" in units[name]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    home, instance = "/tmp/a b%c", "proa-x-engine@work.socket"
    units = login_files.systemd_units("proa-x", ["/bin/true", *ODD], home, {"PROA_HOME": home})
    for name, content in units.items():
        (tmp_path / name).write_text(content)
    (tmp_path / instance).write_text(units["proa-x-engine@.socket"])
    checked = [str(tmp_path / name) for name in ("proa-x.service", "proa-x.socket", instance)]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = run(["systemd-analyze", "--user", "--man=no", "verify", *checked], timeout=60, env=environ)
    assert (done.status, done.err) == (0, "")


def test_words_are_quoted_as_systemd_reads_them() -> None:
    unit = login_files.systemd_units("proa", ODD, "%t/proa", {"PROA_HOME": "/a b/$x%"})["proa.service"]
    assert 'ExecStart="/opt/100%% of it/py thon" -m "pro\\"a$$HOME" "back\\\\slash" "it\'s"\n' in unit
    assert 'Environment="PROA_HOME=/a b/$x%%"\n' in unit


def test_a_desktop_entry_is_quoted_twice() -> None:
    entry = login_files.desktop_entry(["/usr/bin/proa", 'a"b', "c\\d", "$e", "50%"])
    line = next(line for line in entry.splitlines() if line.startswith("Exec="))
    # First what the specification says of every value, then what it says of Exec.
    value = line.removeprefix("Exec=").replace("\\\\", "\\").replace("%%", "%")
    found = run(["sh", "-c", f"printf '%s\\n' {value}"], timeout=20).check().out.splitlines()
    assert found == ["/usr/bin/proa", 'a"b', "c\\d", "$e", "50%"]


def test_a_launch_agent_is_a_property_list() -> None:
    found = plistlib.loads(login_files.launch_agent("proa.agent", ODD, {"PROA_HOME": "/a&b"}, "/tmp/log"))
    assert found["ProgramArguments"] == ODD
    assert found["EnvironmentVariables"] == {"PROA_HOME": "/a&b"}
    assert found["RunAtLoad"] and found["KeepAlive"] == {"SuccessfulExit": False}


def test_a_run_value_is_a_command_line() -> None:
    value = login_files.run_value(["C:\\Program Files\\Proa\\pythonw.exe", "-m", "proa.agent"])
    assert value == '"C:\\Program Files\\Proa\\pythonw.exe" -m proa.agent'
