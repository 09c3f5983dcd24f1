"""The guest's first process: sets the guest up, keeps its services running, powers it off in order.

One line a stage goes to the console (the host shows them where a start fails), and the state of
all services to /run/proa/init.json, which the guest agent sends to the host.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time

from proa_guest import disk, setup, share
from proa_guest.commands import CommandFailed, last_line, module, now, run, spawn
from proa_guest.oom import OutOfMemory
from proa_guest.probes import BeatProbe, SocketProbe
from proa_guest.supervisor import REST, Service, next_due

STATE = "/run/proa/init.json"
LOGS = "/var/log/proa"
CONTAINERD = "/run/containerd/containerd.sock"
DOCKERD = "/run/docker.sock"
DOCKERD_PID = "/run/docker.pid"
WELCOME = "/usr/share/proa/welcome.tar"
WELCOME_MARK = f"{disk.MOUNT}/proa/welcome-loaded"
# What dockerd alone runs in place of the system's (vmimages/root.py).
DOCKERD_PROGRAMS = "/usr/lib/proa/dockerd"
# Nanoseconds that its threads' pauses may be longer where the processor is emulated: after each rest one of
# Go's pauses for 20 us again and again, a thirtieth of a wake. Containers are children of containerd.
DOCKERD_SLACK = 2_000_000
LOOK_SOON, LOOK_LATER = 0.1, 2.0  # seconds between looks while something comes up, and after that
LOG_SIZE = 1 << 20  # bytes; logs lie in memory
STOP_TIMEOUT = {"dockerd": 40.0, "containerd": 10.0, "agent": 3.0}  # seconds; containers have 10 by default
HOPELESS = 3  # restarts after which a service's last words go to the console


def say(text: str) -> None:
    os.write(1, f"proa: {text}\n".encode())


class Init:
    """The state of process 1."""

    def __init__(self) -> None:
        self.disk: dict[str, object] = {"state": "starting", "message": "", "size": 0, "free": 0}
        self.network: dict[str, object] = {"state": "starting", "message": ""}
        self.services = [
            Service("agent", module("proa_guest.agent")),
            Service("containerd", ["containerd"]),
            Service(
                "dockerd", ["dockerd", f"--containerd={CONTAINERD}", f"--host=unix://{DOCKERD}"], "containerd"
            ),
        ]
        self.probes: dict[str, SocketProbe | BeatProbe] = {
            "agent": BeatProbe(setup.BEAT),
            "containerd": SocketProbe(CONTAINERD, "grpc"),
            "dockerd": SocketProbe(DOCKERD, "http"),
        }
        self.memory = OutOfMemory()
        self.welcome = "absent"  # with a disk: `waiting` for the engine, `starting`, `ready` or `failed`
        self.ending = False
        self._welcome_pid = 0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._told = ""
        self._rests_until = 0.0
        self._emulated = False  # as far as that is known: randomise_addresses
        self._shares: int | None = None  # the mount of the host's folders: it ends with this

    # -- setting up ---------------------------------------------------------------------------

    def set_up(self) -> None:
        """All that comes before the services. What fails is said, and the guest agent is started anyway."""
        setup.mounts()
        for problem in setup.kernel():
            say(f"cannot set {problem}")
        config = setup.take_config()
        try:
            link, network = config["link"], config["network"]
            assert isinstance(link, dict) and isinstance(network, dict)
            setup.link_network(link)
            self._mount_shares()
            self._start(self.services[0])  # early: it tells the host about the rest
            setup.network(network, str(config.get("name", "")))
            self.network = {"state": "ready", "message": ""}
            say("network ready")
        except (setup.SetupFailed, CommandFailed, OSError) as error:
            self.network = {"state": "failed", "message": str(error)}
            say(f"network failed: {error}")
        self.tell()
        try:
            disk.prepare()
            self.disk = disk.report()
            # Once in a disk's life: who removes the image does not get it back at the next start.
            self.welcome = "ready" if os.path.exists(WELCOME_MARK) else "waiting"  # noqa: PTH110
            say("disk ready")
        except disk.DiskProblem as error:
            self.disk = {"state": error.state, "message": str(error), "size": 0, "free": 0}
            # Without its disk an engine would write into memory and lose it all.
            self.services = self.services[:1]
            say(f"disk {error.state}: {error}")
        self.tell()

    def _mount_shares(self) -> None:
        """Before the agent, which gets the descriptor; the mount is answered once the host has a stream."""
        try:
            self._shares = share.mount(share.FOLDER)
        except OSError as error:
            say(f"the host's folders cannot be mounted: {error}")

    # -- services -----------------------------------------------------------------------------

    def _start(self, service: Service) -> None:
        self.probes[service.name].forget()
        if service.name == "dockerd" and os.path.exists(DOCKERD_PID):  # noqa: PTH110
            # One that was killed left it, and dockerd does not start where that pid has a new owner.
            os.unlink(DOCKERD_PID)  # noqa: PTH108
        try:
            handles = None
            if service.name == "agent" and self._shares is not None:
                handles = {share.HANDLE: self._shares}  # and nobody else: it is the host's folders
            programs = DOCKERD_PROGRAMS if service.name == "dockerd" else ""
            pid = spawn(service.argv, f"{LOGS}/{service.name}.log", handles, programs)
        except OSError as error:
            service.not_started(str(error.strerror), now())
            return
        service.started(pid, now())
        settings = {"oom_score_adj": "-900"}
        if self._emulated and service.name == "dockerd":
            settings["timerslack_ns"] = str(DOCKERD_SLACK)
        for name, value in settings.items():
            try:
                with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:  # noqa: PTH123
                    file.write(value)
            except OSError:
                continue  # it is gone already; the reaper will say so

    def start_due(self) -> None:
        ready = {service.name: service.state == "ready" for service in self.services}
        for service in self.services:
            if service.wants_start(now(), ready):
                self._start(service)
                say(f"{service.name} started")

    def reap(self) -> None:
        """Take leave of every child that has ended, ours or an orphan."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._ended(pid, os.waitstatus_to_exitcode(status))

    def _ended(self, pid: int, status: int) -> None:
        if pid == self._welcome_pid:
            self._welcome_pid = 0
            self.welcome = "ready" if status == 0 else "failed"
            if status == 0:
                os.close(os.open(WELCOME_MARK, os.O_WRONLY | os.O_CREAT, 0o600))
        for service in self.services:
            if service.pid == pid:
                service.exited(status, last_line(f"{LOGS}/{service.name}.log"), now())
                if not self.ending and service.restarts <= HOPELESS:
                    say(service.message)

    def look(self) -> None:
        """Which services answer, who ran out of memory, and how the disk is."""
        for service in self.services:
            if service.pid:
                self._look_at(service)
            _rotate(f"{LOGS}/{service.name}.log")
        killed = self.memory.look(time.clock_gettime(time.CLOCK_BOOTTIME))
        if killed:
            say(f"out of memory: the kernel ended {killed}")
        if self.disk["state"] in ("ready", "full"):
            self.disk = disk.report()

    def _look_at(self, service: Service) -> None:
        if not self.probes[service.name].look():
            if service.silent(now()):
                say(f"{service.name} does not answer, ending it by force")
                os.kill(service.pid, signal.SIGKILL)  # one that hangs hears nothing else
        elif service.answered(now()):
            say(f"{service.name} ready")
            if service.name == "dockerd":
                self._load_welcome()

    def _load_welcome(self) -> None:
        if self.welcome != "waiting":
            return
        self.welcome = "starting"
        self._welcome_pid = spawn(["docker", "load", "--quiet", "--input", WELCOME], f"{LOGS}/welcome.log")

    # -- telling ------------------------------------------------------------------------------

    def tell(self) -> None:
        """Write the state where the guest agent looks, if it is news."""
        services = {service.name: service.report() for service in self.services}
        services["welcome"] = {"state": self.welcome, "restarts": 0, "message": ""}
        state = {"services": services, "disk": self.disk, "network": self.network}
        text = json.dumps({**state, "memory": self.memory.report()})
        if text == self._told:
            return
        with open(STATE + ".new", "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)
        os.replace(STATE + ".new", STATE)  # noqa: PTH105
        self._told = text

    # -- the loop -----------------------------------------------------------------------------

    def run(self) -> None:
        """Until SIGTERM."""
        self._emulated = setup.randomise_addresses()
        if self._emulated:
            # Not for dockerd and its own iptables calls, which emulation repeats faster so; containers
            # are children of containerd.
            for service in self.services:
                if service.name == "dockerd":
                    service.argv[:0] = ["setarch", "--addr-no-randomize"]
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._signalled)
        while not self.ending:
            self.reap()
            self.start_due()
            self.look()
            self.tell()
            self._sleep()
        self.power_off()

    def _signalled(self, number: int, frame: object) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self.ending = True
        elif number == signal.SIGUSR1:  # the agent says that the guest is about to be saved
            self._rests_until = now() + REST

    def _sleep(self) -> None:
        ready = {service.name: service.state == "ready" for service in self.services}
        coming_up = self.welcome == "starting" or any(
            service.pid and service.state != "ready" for service in self.services
        )
        wait = LOOK_SOON if coming_up else max(LOOK_LATER, self._rests_until - now())
        due = next_due(self.services, ready, now())
        if due is not None:
            wait = min(wait, max(due, 0.01))
        if select.select([self._wake_read], [], [], wait)[0]:
            os.read(self._wake_read, 4096)

    # -- the end ------------------------------------------------------------------------------

    def power_off(self) -> None:
        """Services in the reverse order of their start, then everything, then the disk."""
        say("powering off")
        for service in sorted(self.services, key=lambda service: service.name == "agent"):
            if service.name == "containerd":
                continue  # containers' shims need it until dockerd has ended
            self._stop(service)
        for service in self.services:
            if service.name == "containerd":
                self._stop(service)
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(-1, number)
            except ProcessLookupError:
                break
            self._drain(2.0)
        if self._shares is not None:
            os.close(self._shares)  # the last holder: else the sync would wait for the host
        if self.disk["state"] in ("ready", "full"):
            disk.unmount()
        os.sync()
        say("power off")
        run(["busybox", "poweroff", "-f"], timeout=30, good=None)

    def _stop(self, service: Service) -> None:
        if not service.pid:
            return
        os.kill(service.pid, signal.SIGTERM)
        deadline = now() + STOP_TIMEOUT[service.name]
        while service.pid and now() < deadline:
            if select.select([self._wake_read], [], [], 0.1)[0]:
                os.read(self._wake_read, 4096)
            self.reap()
        if service.pid:
            say(f"{service.name} does not end, ending it by force")
            os.kill(service.pid, signal.SIGKILL)

    def _drain(self, timeout: float) -> None:
        """Reap until no child is left."""
        deadline = now() + timeout
        while now() < deadline:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    select.select([self._wake_read], [], [], 0.05)
            except ChildProcessError:
                return


def _rotate(path: str) -> None:
    """Keep the newer half of a log that grew too large. The writer appends, so cutting is safe."""
    try:
        if os.stat(path).st_size <= LOG_SIZE:  # noqa: PTH116
            return
        with open(path, "r+b") as log:  # noqa: PTH123
            log.seek(-LOG_SIZE // 2, os.SEEK_END)
            kept = log.read()
            log.truncate(0)
            log.seek(0)
            log.write(kept)
    except FileNotFoundError:
        return


def main() -> None:
    """Process 1. Whatever goes wrong is said on the console, and the guest powers off: the host sees it."""
    os.environ.update({"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    say("init")
    init = Init()
    try:
        init.set_up()
        init.run()
    except (setup.SetupFailed, CommandFailed, OSError) as error:
        say(f"init failed: {error}")
        run(["busybox", "poweroff", "-f"], timeout=30, good=None)
