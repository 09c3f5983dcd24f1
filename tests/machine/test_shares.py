"""Folders of this computer in containers: a real guest, its kernel's FUSE, a real engine in front."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import Docker
from tests.support.homes import Home, wait_until
from tests.support.share_mounts import can_confine

pytestmark = [pytest.mark.machine, pytest.mark.timeout(240)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder below one of the usual shares (the temporary ones)."""
    folder = tmp_path / "a project"
    folder.mkdir()
    (folder / "greeting").write_text("hello\n")
    return folder


@pytest.fixture
def running(docker: Docker, project: Path) -> Iterator[Docker]:
    """A container `box` that has the project at /app."""
    docker("run", "-d", "--name", "box", "-v", f"{project}:/app", "busybox", "sleep", "100000")
    yield docker
    docker("rm", "-f", "box")


def test_both_sides_see_what_the_other_writes(running: Docker, project: Path) -> None:
    def inside(script: str) -> str:
        return running("exec", "box", "sh", "-c", script).out

    assert inside("cat /app/greeting") == "hello"
    (project / "greeting").write_text("changed here\n")
    assert inside("cat /app/greeting") == "changed here"
    (project / "new").write_text("replaced\n")
    (project / "new").replace(project / "greeting")
    assert inside("cat /app/greeting; ls /app") == "replaced\ngreeting"
    inside("mkdir -p /app/made/deep && echo there > /app/made/deep/file && mv /app/made /app/moved")
    assert (project / "moved/deep/file").read_text() == "there\n"
    assert (project / "moved").stat().st_uid == os.geteuid(), "on the host it is the user's"
    (project / "greeting").unlink()
    assert inside("ls /app") == "moved"


@pytest.fixture
def watched(docker: Docker, project: Path) -> Iterator[Docker]:
    """A container `watcher` that writes what inotify tells of the project to its /tmp/told."""
    docker("run", "-d", "--name", "watcher", "-v", f"{project}:/app", "inotify", "sleep", "100000")
    # It goes round each name once, as a tool does that begins to watch.
    watch = "ls -l /app; inotifywait -m -o /tmp/told --format '%e %f' /app 2> /tmp/state"
    docker("exec", "-d", "watcher", "sh", "-c", watch)
    _until(docker, "grep -q established /tmp/state")
    yield docker
    docker("rm", "-f", "watcher")


def _until(docker: Docker, condition: str) -> None:
    """The wait is long: what other tests do in the temporary folders meanwhile may have to be told first."""
    script = f"until {condition}; do sleep 0.1; done"
    found = docker("exec", "watcher", "timeout", "150", "sh", "-c", script, timeout=180, status=None)
    assert found.status == 0, docker("exec", "watcher", "cat", "/tmp/told").out


def test_who_watches_in_a_container_is_told_what_the_host_does(watched: Docker, project: Path) -> None:
    def told(*lines: str) -> None:
        _until(watched, " && ".join(f"grep -q '^{line}$' /tmp/told" for line in lines))

    (project / "page.js").write_text("first")
    told("CREATE page.js", "CLOSE_WRITE,CLOSE page.js")
    (project / "page.js").write_text("second")
    told("MODIFY page.js")
    assert watched("exec", "watcher", "cat", "/app/page.js").out == "second"
    (project / ".page.js.new").write_text("third")
    (project / ".page.js.new").replace(project / "page.js")
    told("MOVED_FROM .page.js.new", "MOVED_TO page.js")
    assert watched("exec", "watcher", "cat", "/app/page.js").out == "third"
    (project / "page.js").rename(project / "moved.js")
    told("MOVED_FROM page.js", "MOVED_TO moved.js")
    (project / "moved.js").unlink()
    told("DELETE moved.js")
    (project / "folder").mkdir()
    (project / "folder").rmdir()
    (project / "greeting").chmod(0o600)
    told("ATTRIB greeting")


def test_who_watches_does_not_wait_for_what_nobody_watches(
    watched: Docker, home: Home, project: Path
) -> None:
    def told() -> int:
        return int(json.loads(home.ok("shares", "--json"))["events"])

    (project / "built").mkdir()
    assert watched("exec", "watcher", "ls", "/app/built").out == ""
    before = told()
    for number in range(600):
        (project / f"built/{number}").write_text("x")
    (project / "page.js").write_text("x")
    _until(watched, "grep -q 'CREATE page.js' /tmp/told")
    assert told() - before < 300
    assert watched("exec", "watcher", "sh", "-c", "ls /app/built | wc -l; cat /app/built/599").out == "600\nx"


def test_who_watches_is_told_what_changed_in_a_sleep(watched: Docker, home: Home, project: Path) -> None:
    home.ok("suspend")
    (project / "greeting").write_text("changed in its sleep\n")
    (project / "new").write_text("new\n")
    assert watched("exec", "watcher", "cat", "/app/greeting").out == "changed in its sleep"
    _until(watched, "grep -q 'MODIFY greeting' /tmp/told && grep -q 'CREATE new' /tmp/told")


def test_owners_are_what_containers_set(running: Docker, project: Path) -> None:
    """As the images of databases make their data folders."""
    script = (
        "mkdir /app/data && chown 999:998 /app/data && chmod 700 /app/data && "
        "stat -c '%u:%g %a' /app/data && touch /app/data/x && chmod 4755 /app/data/x && "
        "stat -c %a /app/data/x"
    )
    assert running("exec", "box", "sh", "-c", script).out == "999:998 700\n4755"
    found = (project / "data/x").stat()
    assert found.st_uid == os.geteuid()
    assert found.st_mode & 0o7000 == 0, "nothing on the host is set-uid"
    assert running("exec", "-u", "1234", "box", "ls", "/app/data", status=1).status == 1


def test_docker_shows_what_the_user_gave(running: Docker, project: Path) -> None:
    told = running("inspect", "box").out
    assert "/run/proa" not in told
    [found] = json.loads(told)
    assert found["HostConfig"]["Binds"] == [f"{project}:/app"]
    assert found["Mounts"][0]["Source"] == str(project)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("how", ["-v", "--mount", "volume"])
def test_a_link_keeps_its_name_and_leads_where_it_leads_at_each_start(
    docker: Docker, project: Path, how: str, absolute: bool
) -> None:
    for release in ("one", "two"):
        (project / release).mkdir()
        (project / release / "which").write_text(release)
    before = project if absolute else Path()
    link = project / "current"
    link.symlink_to(before / "one")
    options = {
        "-v": ("-v", f"{link}:/x"),
        "--mount": ("--mount", f"type=bind,source={link},target=/x"),
        "volume": ("-v", "linked:/x"),
    }
    if how == "volume":
        docker("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", f"device={link}", "linked")
        [volume] = json.loads(docker("volume", "inspect", "linked").out)
        assert volume["Options"]["device"] == str(link)
    docker("create", "--name", "linked", *options[how], "busybox", "cat", "/x/which")
    [found] = json.loads(docker("inspect", "linked").out)
    if how != "volume":
        assert found["Mounts"][0]["Source"] == str(link)
    assert ".proa-links" not in json.dumps(found)
    assert docker("start", "-a", "linked").out == "one"
    link.unlink()
    link.symlink_to(before / "two")
    assert docker("start", "-a", "linked").out == "two"
    docker("rm", "linked")
    if how == "volume":
        docker("volume", "rm", "linked")


def test_all_forms_of_a_mount(docker: Docker, project: Path) -> None:
    file = project / "greeting"
    for words in (
        ("-v", "./:/x:z,delegated"),
        ("--mount", f"type=bind,source={project},target=/x,readonly"),
    ):
        got = docker("run", "--rm", *words, "busybox", "cat", "/x/greeting", cwd=project)
        assert got.out == "hello", words
    assert docker("run", "--rm", "-v", f"{file}:/one", "busybox", "cat", "/one").out == "hello"
    refused = docker("run", "--rm", "-v", f"{project}:/x:ro", "busybox", "touch", "/x/new", status=1)
    assert "Read-only" in refused.err


@pytest.mark.long
def test_a_volume_with_a_bind_driver(docker: Docker, project: Path) -> None:
    docker("volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", f"device={project}", "bound")
    try:
        assert docker("run", "--rm", "-v", "bound:/x", "busybox", "cat", "/x/greeting").out == "hello"
        assert json.loads(docker("volume", "inspect", "bound").out)[0]["Options"]["device"] == str(project)
    finally:
        docker("volume", "rm", "bound")


def test_compose_with_relative_paths(docker: Docker, project: Path) -> None:
    (project / "compose.yaml").write_text(
        "services:\n  one:\n    image: busybox\n    volumes: ['.:/x', './later:/later']\n"
        "    command: sh -c 'cat /x/greeting; echo done > /later/file'\n"
    )
    told = docker("compose", "-p", "relative", "up", cwd=project, timeout=120)
    assert "hello" in told.out
    assert (project / "later/file").read_text() == "done\n"
    docker("compose", "-p", "relative", "down", cwd=project, timeout=90)


def test_a_folder_that_is_missing(docker: Docker, project: Path) -> None:
    """`-v` makes it, `--mount` fails: the API's rules."""
    docker("run", "--rm", "-v", f"{project}/made/here:/x", "busybox", "touch", "/x/file")
    assert (project / "made/here/file").exists()
    words = ("run", "--rm", "--mount", f"type=bind,source={project}/nowhere,target=/x", "busybox", "true")
    refused = docker(*words, status=None)
    assert refused.status != 0
    assert "bind source path does not exist" in refused.err
    assert str(project / "nowhere") in refused.err
    assert not (project / "nowhere").exists()


def test_what_is_never_shared(docker: Docker, home: Home, project: Path) -> None:
    (project / "link").symlink_to("/etc")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(project / "s"))
        for path, words in (
            (project / "link", "does not share '/etc'"),
            (project / "s", "socket"),
            (home.folder, "keeps"),
            (home.folder / "run/default", "keeps"),
        ):
            refused = docker("run", "--rm", "-v", f"{path}:/x", "busybox", "ls", "/x", status=None)
            assert refused.status != 0
            assert words in refused.err, refused.err


def test_a_folder_is_shared_and_taken_back_while_it_runs(docker: Docker, home: Home) -> None:
    folder = Path("/opt") / f"proa-test-{os.getpid()}"
    folder.mkdir()
    (folder / "file").write_text("here")
    words = ("run", "--rm", "-v", f"{folder}:/x", "busybox", "cat", "/x/file")
    try:
        assert "proa share add" in docker(*words, status=None).err
        home.ok("share", "add", str(folder), "--read-only")
        assert docker(*words).out == "here"
        assert docker("run", "--rm", "-v", f"{folder}:/x", "busybox", "touch", "/x/n", status=1).status == 1
        listed = json.loads(home.ok("shares", "--json"))
        assert listed["confined"] == can_confine()
        [told] = [each for each in listed["folders"] if each["path"] == str(folder)]
        assert (told["writable"], told["problem"]) == (False, "") and told["known"] >= 1
        docker("run", "-d", "--name", "holds", "-v", f"{folder}:/x", "busybox", "sleep", "1000")
        home.ok("share", "remove", str(folder))
        refused = docker("exec", "holds", "cat", "/x/file", status=1)
        assert "Permission denied" in refused.err
        assert docker(*words, status=None).status != 0
        docker("rm", "-f", "holds")
    finally:
        (folder / "file").unlink()
        folder.rmdir()


def _grown(running: Docker, log: str, lines: int) -> None:
    """Wait until it has more lines than that."""
    script = f"until [ $(wc -l < /app/{log}) -gt {lines} ]; do sleep 0.2; done"
    running("exec", "box", "timeout", "60", "sh", "-c", script)


def test_it_outlives_sleep_and_an_agent(running: Docker, home: Home, project: Path) -> None:
    """An open file goes on being written; what changed on the host meanwhile is seen at once."""
    script = "exec 3>>/app/log; while true; do date +%s >&3; sleep 1; done"
    running("exec", "-d", "box", "sh", "-c", script)
    # And one that has been removed: only who has it open can reach it.
    script = "exec 3>>/app/log2 4<>/app/gone; rm /app/gone; while echo x >&4; do date +%s >&3; sleep 1; done"
    running("exec", "-d", "box", "sh", "-c", script)
    waits = "until [ -s /app/log ] && [ -s /app/log2 ]; do sleep 0.2; done; cat /app/greeting"
    running("exec", "box", "sh", "-c", waits)
    home.ok("suspend")
    assert not (project / "gone").exists()
    (project / "greeting").write_text("changed in its sleep\n")
    before = len((project / "log").read_text().splitlines())
    second = len((project / "log2").read_text().splitlines())
    assert running("exec", "box", "cat", "/app/greeting").out == "changed in its sleep"
    _grown(running, "log", before + 1)
    _grown(running, "log2", second + 1)
    agent = home.agent_pid()
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    home.ok("status")
    _grown(running, "log", before + 4)
    assert running("exec", "box", "cat", "/app/greeting").out == "changed in its sleep"


def test_a_killed_share_server_costs_nothing(running: Docker, home: Home, project: Path) -> None:
    script = "exec 3>>/app/log; while date +%s >&3; do sleep 1; done"
    running("exec", "-d", "-w", "/app", "box", "sh", "-c", script)
    _grown(running, "log", 0)
    [server] = home.share_servers()
    os.kill(server, signal.SIGKILL)
    (project / "greeting").write_text("changed meanwhile\n")
    _grown(running, "log", len((project / "log").read_text().splitlines()) + 1)
    assert running("exec", "box", "cat", "/app/greeting").out == "changed meanwhile"
    assert home.share_servers() not in ([], [server])
    assert json.loads(home.ok("shares", "--json"))["mounted"]


def test_a_killed_relay_costs_nothing_and_nothing_is_left_of_it(running: Docker, home: Home) -> None:
    """The mount is init's: another relay goes on with it, over the next stream of the host's."""
    relays = "ps -eo pid,ppid,stat,args | grep '[p]roa_guest.share'"
    agent = home.ok("shell", "--", "pgrep", "-f", "import sys.*proa_guest.agent import").split()[0]
    found = [line.split() for line in home.ok("shell", "--", "sh", "-c", relays).splitlines()]
    [relay] = [words[0] for words in found if words[1] == agent]  # what repeats changes is a child of its own
    home.ok("shell", "--", "kill", "-9", relay)
    assert running("exec", "box", "cat", "/app/greeting").out == "hello"

    def is_gone() -> bool:
        return home.proa("shell", "--", "test", "-e", f"/proc/{relay}").status == 1

    wait_until(is_gone, 30, "the relay is gone")


@pytest.mark.long
def test_it_is_there_again_after_a_stop_and_a_cold_start(running: Docker, home: Home, project: Path) -> None:
    running("update", "--restart", "always", "box")
    for words in ((), ("--cold",)):
        home.ok("stop", *words)
        home.ok("start")
        assert running("exec", "box", "cat", "/app/greeting").out == "hello"
