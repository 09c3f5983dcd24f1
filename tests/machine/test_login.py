"""Login, with a real `systemd --user`: it listens, a docker command starts the agent and what is due."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.homes import PROA, START_TIMEOUT, Home, wait_until
from tests.support.user_manager import UserManager, user_manager

pytestmark = pytest.mark.machine

PYTHON = sys.executable
CALL = "from proa.system import login; print(login.{}())"


class Desk:
    """A user's account: sessions, and an installation whose PROA_HOME lies in it."""

    def __init__(self, manager: UserManager, home: Home) -> None:
        self.manager = manager
        self.home = home

    def proa(self, *argv: str, timeout: float = START_TIMEOUT) -> str:
        found = self.manager.run(PROA, *argv, timeout=timeout, PROA_HOME=str(self.home.folder))
        assert found.status == 0, found.report("failed") + self.home.last_words()
        return found.out

    def login(self, call: str) -> str:
        argv = (PYTHON, "-c", CALL.format(call))
        return self.manager.run(*argv, PROA_HOME=str(self.home.folder)).check().out

    def ask_engine(self, path: str = "/_ping", timeout: float = START_TIMEOUT) -> str:
        """What curl gets on the engine's socket, as any Docker client would."""
        socket = f"{self.home.folder}/run/default/docker.sock"
        options = ("--silent", "--show-error", "--max-time", str(timeout), "--unix-socket", socket)
        argv = ("curl", *options, f"http://docker{path}")
        return self.manager.run(*argv, timeout=timeout + 20).check().out

    def agent_of_service(self) -> bool:
        pid = self.home.agent_pid()
        return pid is not None and ".service" in Path(f"/proc/{pid}/cgroup").read_text()


@pytest.fixture
def desk() -> Iterator[Desk]:
    with user_manager() as manager, Home(manager.folder / "p") as home:
        yield Desk(manager, home)


def test_from_login_to_logout_without_a_guest(desk: Desk) -> None:
    with desk.manager.session():
        assert desk.login("is_enabled") == "False"
        desk.proa("version")
        first = desk.home.agent_pid()
        desk.login("enable")
        assert desk.login("is_enabled") == "True"
        assert desk.home.agent_pid() == first  # it goes on as it is
    with desk.manager.session():
        wait_until(desk.agent_of_service, 30, "the agent started at login, instead of the earlier one")
        assert desk.home.agent_pid() != first
        assert "there is no machine 'default'" in desk.ask_engine()
        desk.proa("create", "default")
        assert "the machine 'default' is stopped" in desk.ask_engine()  # a stopped machine stays stopped
        desk.proa("create", "work")
        wants = desk.manager.folder / "home/.config/systemd/user/sockets.target.wants"
        assert any(path.name.endswith("-engine@work.socket") for path in wants.iterdir())
        desk.proa("delete", "work", "--yes")
        assert not any(path.name.endswith("-engine@work.socket") for path in wants.iterdir())
        # An agent that was killed leaves the sockets to systemd, and the next command finds one.
        service = desk.home.agent_pid()
        desk.manager.run("kill", "-KILL", str(service)).check()
        assert "the machine 'default' is stopped" in desk.ask_engine()
        assert desk.home.agent_pid() not in (None, service)
        # A second agent in the foreground leaves the field to the first.
        told = desk.manager.run(PROA, "agent", PROA_HOME=str(desk.home.folder))
        assert (told.status, told.err) == (0, "proa: an agent is running already")
        desk.proa("config", "set", "start_at_login", "true")
        assert desk.login("is_enabled") == "True"
        desk.proa("config", "unset", "start_at_login")
        assert desk.login("is_enabled") == "False"
    assert desk.home.agent_pid() is None
    with desk.manager.session():
        assert list(wants.parent.glob("proa*")) == []
        assert not desk.home.agent_pid()
        desk.proa("config", "set", "start_at_login", "true")
        assert desk.login("is_enabled") == "True"
        desk.proa("delete", "default", "--yes")
        assert desk.login("is_enabled") == "False"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_first_request_after_a_reboot_starts_what_ran(desk: Desk, image: Path) -> None:
    desk.home.import_image(image)
    with desk.manager.session():
        desk.login("enable")
    with desk.manager.session():
        desk.proa("start")
        started = desk.home.hypervisors()
        assert len(started) == 1
        # The service may be stopped: machines outlive their agent.
        desk.manager.run("systemctl", "--user", "stop", "proa-*.service").check()
        wait_until(lambda: desk.home.agent_pid() is None, 30, "the agent ended")
        assert desk.ask_engine() == "OK"
        assert desk.home.hypervisors() == started
    # The end of the session suspended it.
    assert desk.home.hypervisors() == []
    assert (desk.home.folder / "machines/default/memory.ready").is_dir()
    with desk.manager.session():
        assert desk.ask_engine() == "OK"  # the request that started it was served, after the start
        assert len(desk.home.hypervisors()) == 1
        desk.proa("stop")
    with desk.manager.session():
        assert "the machine 'default' is stopped" in desk.ask_engine()
