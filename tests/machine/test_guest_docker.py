"""`proa docker` on a computer that can run no Docker CLI: the guest's, as if it were here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import Docker
from tests.support.commands import run
from tests.support.homes import Home, wait_until
from tests.support.private_registry import PASSWORD, USER, serve_private
from tests.support.registry import Registry, free_port
from tests.support.terminals import terminal

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]


@pytest.fixture
def guests(docker: Docker, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    """The guest's CLI, in a folder that is shared. Beside it `docker` is this computer's."""
    monkeypatch.chdir(tmp_path)
    return Docker(home, PROA_DOCKER_CLI="guest")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "a project"
    folder.mkdir()
    return folder


def test_it_is_the_guests_and_no_other(guests: Docker, docker: Docker) -> None:
    (guests.home.docker_config / "config.json").write_text(json.dumps({"psFormat": "table {{.Ports}}"}))
    try:
        assert guests("ps", "-q").out == docker("ps", "-q").out
        assert guests("ps").out == "PORTS"
    finally:
        (guests.home.docker_config / "config.json").unlink()
    assert guests("version", "--format", "{{.Client.Version}}").out


def test_a_build_in_the_current_folder_and_its_files_are_here(guests: Docker, project: Path) -> None:
    (project / "Dockerfile").write_text("FROM busybox\nARG WHO\nCOPY greeting /\nLABEL who=$WHO\n")
    (project / "greeting").write_text("hello\n")
    guests("build", "-t", "greeter", "--build-arg", "WHO", "--iidfile", "id", ".", cwd=project, WHO="me")
    assert (project / "id").read_text().startswith("sha256:")
    assert (project / "id").stat().st_uid == os.geteuid()
    assert guests("inspect", "greeter", "-f", "{{.Config.Labels.who}}").out == "me"
    guests("create", "--name", "kept", "greeter")
    guests("cp", "kept:/greeting", "copied", cwd=project)
    assert (project / "copied").read_text() == "hello\n"


def test_a_compose_project_with_relative_paths(guests: Docker, docker: Docker, project: Path) -> None:
    port = free_port()
    (project / "data").mkdir()
    (project / "data/page").write_text("from here\n")
    (project / ".env").write_text(f"PORT={port}\n")
    (project / "compose.yaml").write_text(
        """
services:
  web:
    image: busybox
    command: ["httpd", "-f", "-h", "/www"]
    environment: ["WHO=${WHO}"]
    ports: ["127.0.0.1:${PORT}:80"]
    volumes: ["./data:/www", "./made:/made"]
    stop_grace_period: 0s
"""
    )
    guests("compose", "up", "-d", cwd=project, timeout=120, WHO="me")
    try:
        page = run(
            ["curl", "-sf", "--retry", "10", "--retry-all-errors", f"http://127.0.0.1:{port}/page"],
            timeout=60,
        )
        assert page.check().out == "from here"
        assert (project / "made").is_dir(), "a folder that is not there is made here"
        shown = json.loads(docker("inspect", f"{project.name.replace(' ', '')}-web-1").out)[0]
        assert {mount["Source"] for mount in shown["Mounts"]} == {
            str(project / "data"),
            str(project / "made"),
        }
        assert guests("compose", "exec", "-T", "web", "sh", "-c", "echo $WHO", cwd=project).out == "me"
    finally:
        guests("compose", "down", cwd=project, timeout=120)


def test_streams_are_kept_apart_and_the_status_is_the_commands(guests: Docker) -> None:
    script = "cat; echo err >&2; exit 37"
    done = guests("run", "--rm", "-i", "busybox", "sh", "-c", script, input="typed", status=37)
    assert (done.out, done.err) == ("typed", "err")
    assert guests("no-such-command", status=1).err.startswith("docker: 'no-such-command'")


@pytest.mark.long
def test_a_large_file_goes_in_and_out(guests: Docker, tmp_path: Path) -> None:
    data = os.urandom(6 << 20)
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        done = guests("run", "--rm", "-i", "busybox", "cat", input=file)
    assert done.raw == data


def test_a_folder_that_is_not_shared_is_said_and_nothing_is_lost(guests: Docker, home: Home) -> None:
    done = guests("ps", "-q", cwd=home.folder)
    assert str(home.folder) in done.err and "proa share add" in done.err
    guests("create", "--name", "away", "busybox")
    refused = guests("cp", "away:/bin/busybox", ".", cwd=home.folder, status=1)
    assert "read-only file system" in refused.err
    assert not (home.folder / "busybox").exists()
    refused = guests("run", "--rm", "-v", f"{home.folder}:/x", "busybox", "true", status=125)
    assert "host-folder-protected" in refused.err


def test_a_signal_is_the_commands(guests: Docker) -> None:
    script = "trap 'echo told; exit 5' INT; echo waiting; while :; do sleep 0.1; done"
    with guests.streaming("run", "--rm", "busybox", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"told\n"
        assert process.wait(30) == 5


def test_a_terminal_is_the_commands(guests: Docker) -> None:
    argv = guests.argv("run", "--rm", "-it", "busybox", "sh")
    with terminal(argv, guests.environ, rows=31, columns=99) as shown:
        shown.expect("# ")
        shown.send("stty size; test -t 0 -a -t 1 && echo all''shown\n")
        shown.expect(r"31 99\s+allshown")
        # The client listens for it only some time after the prompt (see test_build): so it is told twice.
        shown.resize(40, 119)
        shown.send("sleep 1; echo slept''\n")
        shown.expect("slept\r")
        shown.resize(41, 120)
        shown.send("until stty size | grep '41 120'; do sleep 0.1; done\n")
        shown.expect("41 120\r")
        shown.send("sh -c \"echo wait''ing; exec cat\"\n")  # a key before that would reach the shell's editor
        shown.expect("waiting")
        shown.send("\x03")
        shown.expect("# ")
        shown.send("exit 9\n")
        assert shown.wait() == 9


@pytest.mark.long
def test_who_reads_no_more_ends_it(guests: Docker) -> None:
    with guests.streaming("run", "--rm", "--name", "endless", "busybox", "yes") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 128 + signal.SIGPIPE


KEEPER = """#!/bin/sh
echo "$1" >> "$0.log"
case "$1" in
    store) cat > "$0.kept" ;;
    erase) rm -f "$0.kept" ;;
    list) echo '{}' ;;
    get) cat "$0.kept" 2>/dev/null || { echo credentials not found in native keychain; exit 1; } ;;
esac
"""


@pytest.fixture
def private(registry: Registry, guests: Docker) -> Iterator[str]:
    """The address of a registry that wants a login, and that the engine talks to."""
    with serve_private(registry) as address:
        guests.home.ok("config", "set", "registry.insecure", registry.address, address)
        yield address
        guests.home.ok("config", "set", "registry.insecure", registry.address)


def log_in(guests: Docker, address: str, path: str) -> None:
    guests("login", "-u", USER, "--password-stdin", address, input=PASSWORD, PATH=path)


def left_in_guest(home: Home) -> str:
    """Files of calls, and anything outside the engine's own that has the password."""
    return home.ok(
        "shell",
        "--",
        "sh",
        "-c",
        f"ls /run/proa/calls; grep -rls {PASSWORD} /run/proa/calls /root /tmp /etc; true",
    )


def test_a_login_is_kept_here_and_at_hand_for_the_call_only(guests: Docker, home: Home, private: str) -> None:
    refused = guests("pull", "-q", f"{private}/library/busybox", status=1)
    assert "no basic auth credentials" in refused.err
    log_in(guests, private, os.environ["PATH"])
    config = home.docker_config / "config.json"
    try:
        assert list(json.loads(config.read_text())["auths"]) == [private]
        guests("pull", "-q", f"{private}/library/busybox")
        assert not left_in_guest(home)
        guests("logout", private)
        assert json.loads(config.read_text())["auths"] == {}
    finally:
        config.unlink()


@pytest.mark.long
def test_a_login_of_the_users_keychain(guests: Docker, home: Home, private: str, tmp_path: Path) -> None:
    keeper = tmp_path / "docker-credential-keeper"
    keeper.write_text(KEEPER)
    keeper.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    config = home.docker_config / "config.json"
    config.write_text(json.dumps({"credsStore": "keeper"}))
    try:
        log_in(guests, private, path)
        assert PASSWORD in Path(f"{keeper}.kept").read_text()
        Path(f"{keeper}.log").unlink()
        guests("ps", PATH=path)
        assert not Path(f"{keeper}.log").exists(), "it is asked only when a login is needed"
        guests("pull", "-q", f"{private}/library/busybox", PATH=path)
        guests("logout", private, PATH=path)
        assert not Path(f"{keeper}.kept").exists()
        assert PASSWORD not in config.read_text()
    finally:
        config.unlink()
    assert not left_in_guest(home)


@pytest.mark.long
def test_a_call_ends_with_its_process(guests: Docker, home: Home) -> None:
    with guests.streaming("run", "--rm", "busybox", "sh", "-c", "echo there; sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.kill()
        process.wait(20)
    wait_until(lambda: not left_in_guest(home), 30, "nothing is left in the guest")


@pytest.mark.long
def test_many_at_once(guests: Docker) -> None:
    processes = [
        subprocess.Popen(
            guests.argv("version", "-f", "{{.Server.Version}}"), env=guests.environ, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    told = {process.communicate(timeout=120)[0] for process in processes}
    assert len(told) == 1 and told.pop().strip()
