"""doctor, diagnose and logs against a real guest: what they say of a well machine, and of one that is not."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Docker
from tests.support.homes import Home, wait_until
from tests.support.registry import Registry

pytestmark = [pytest.mark.machine, pytest.mark.timeout(480)]

CANARY = "C4nary"  # every secret that is planted begins so, and nothing else does


def _doctor(home: Home, *name: str, **environ: str) -> dict[str, dict[str, Any]]:
    result = home.proa("doctor", *name, "--json", timeout=120, **environ)
    checks = json.loads(result.out)
    assert all(set(check) == {"name", "state", "message", "hint"} for check in checks)
    assert result.status == int(any(check["state"] == "fail" for check in checks))
    return {check["name"]: check for check in checks}


def test_a_well_machine_is_found_well(home: Home, machine: dict[str, Any]) -> None:
    checks = _doctor(home)
    for name in ("agent", "hypervisor", "image", "socket", "guest-agent", "engine", "clock", "docker-cli"):
        assert checks[name]["state"] == "ok", checks[name]
    assert machine["engine"]["version"] in checks["engine"]["message"]
    # The tests' registry is a mirror by address: reached without a name, and without an internet.
    assert (checks["outward"]["state"], checks["names"]["state"]) == ("ok", "skip"), checks
    expected = "warn" if machine["accelerator"] == "tcg" else "ok"
    assert checks["acceleration"]["state"] == expected and checks["acceleration"]["message"]
    told = home.proa("doctor", timeout=120).out
    assert "guest-agent" in told and "Docker" in told


def test_names_and_ways_out_are_tried_from_the_guest(
    home: Home, machine: dict[str, Any], registry: Registry
) -> None:
    address, _, port = registry.address.rpartition(":")
    hosts = "cp /etc/hosts /run/hosts; echo {} mirror.proa.test >>/etc/hosts"
    home.ok("config", "set", "registry.mirrors", f"http://mirror.proa.test:{port}")
    try:
        found = _doctor(home)
        assert found["names"]["state"] == "warn" and "mirror.proa.test" in found["names"]["message"], found
        assert found["outward"]["state"] == "warn" and found["names"]["hint"] and found["outward"]["hint"]
        home.ok("shell", "--", "sh", "-c", hosts.format(address))
        found = _doctor(home)
        assert (found["names"]["state"], found["outward"]["state"]) == ("ok", "ok"), found
        home.ok("shell", "--", "sh", "-c", "cat /run/hosts >/etc/hosts")
        home.ok("config", "set", "registry.mirrors", f"http://{address}:9")  # where nobody listens
        found = _doctor(home)
        assert found["outward"]["state"] == "warn" and f"{address}:9" in found["outward"]["message"], found
    finally:
        home.ok("config", "set", "registry.mirrors", f"http://{registry.address}")
    for name in ("memory", "disk", "agent"):
        assert found[name]["state"] == "ok", found[name]


def test_what_is_wrong_with_it_is_named(home: Home, machine: dict[str, Any], docker: Docker) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        container = docker("run", "-d", "-p", f"127.0.0.1:{port}:80", "busybox", "sleep", "300").out
        checks = _doctor(home, DOCKER_HOST="tcp://user:secret@elsewhere:1")
        assert checks["ports"]["state"] == "warn" and str(port) in checks["ports"]["message"]
        assert checks["context"]["state"] == "warn" and "elsewhere" in checks["context"]["message"]
        assert "secret" not in json.dumps(checks)
        docker("rm", "-f", container)


def test_a_clock_that_is_wrong_is_set(home: Home, machine: dict[str, Any]) -> None:
    for by, word in ((90, "ahead"), (-90, "behind")):
        last = max(event["number"] for event in _events(home))
        home.ok("shell", "--", "sh", "-c", f'date -s "@$(( $(date +%s) + {by} ))"')
        wait_until(partial(_clock_was, home, word, last), 60, "the clock is set, and told")
        assert _doctor(home)["clock"]["state"] == "ok"


def _clock_was(home: Home, word: str, since: int) -> bool:
    told = [event["message"] for event in _events(home) if event["number"] > since]
    return any("clock" in message and word in message for message in told)


def _events(home: Home) -> list[dict[str, Any]]:
    return [json.loads(line) for line in home.ok("events", "--json").splitlines()]


def test_a_bundle_holds_no_secret_and_much_of_use(
    home: Home, machine: dict[str, Any], docker: Docker, tmp_path: Path
) -> None:
    config = home.folder / "machines/default/machine.toml"
    before = config.read_text()
    container = docker(
        "run", "-d", "-e", f"API_TOKEN={CANARY}-env", "-e", f"PLAIN={CANARY}-plain",
        "-l", f"com.example.note={CANARY}-label", "busybox", "sh", "-c", f": {CANARY}-command; sleep 300",
    ).out  # fmt: skip
    cli = tmp_path / "docker"
    cli.mkdir()
    auth = base64.b64encode(f"user:{CANARY}-registry".encode()).decode()
    (cli / "config.json").write_text(
        json.dumps(
            {"auths": {"registry.example": {"auth": auth}}, "HttpHeaders": {"X-Key": f"{CANARY}-http"}}
        )
    )
    lines = (
        f"Authorization: Bearer {CANARY}-header\npassword={CANARY}-logged\nplain {CANARY}-registry\n"
        f"plain {CANARY}-proxy and {auth}\nkey {(home.folder / 'run/default/link.key').read_bytes().hex()}\n"
    )
    try:
        config.write_text(
            before + "labels = ["
            f'"token={CANARY}-daemon"]\n[daemon.proxies]\nhttp-proxy = "http://u:{CANARY}-proxy@p.example:1"\n'
        )
        for log in (home.folder / "logs/agent.log", home.folder / "logs/default-console.log"):
            with log.open("a") as file:
                file.write(lines)
        home.ok(
            "shell", "--", "sh", "-c", f"echo 'X-Registry-Auth: {CANARY}-guest' >> /var/log/proa/dockerd.log"
        )
        content = _bundle(
            home, tmp_path / "b.tar.gz", DOCKER_CONFIG=str(cli), HTTPS_PROXY=f"http://u:{CANARY}-own@p:1"
        )
    finally:
        config.write_text(before)
        docker("rm", "-f", container)
    secret = (home.folder / "run/default/link.key").read_bytes().hex()
    for name, text in content.items():
        for planted in (CANARY, auth, secret):
            assert planted not in text, (
                f"{planted} is in {name}: {text[max(0, text.find(planted) - 200) :][:400]}"
            )
    assert container[:12] in content["docker/ps.json"], "containers are listed"
    assert machine["engine"]["version"] in content["docker/version.json"]
    assert "proa: dockerd ready" in content["logs/default-console.log"]
    assert (
        "containerd" in content["guest/containerd.log"] and "X-Registry-Auth" in content["guest/engine.log"]
    )
    for name in ("doctor.json", "status.json", "host.json", "versions.json", "machines/default/machine.json"):
        assert json.loads(content[name]), name
    assert any(name.startswith("images/") for name in content)


def _bundle(home: Home, output: Path, *argv: str, **environ: str) -> dict[str, str]:
    """The bundle's files by name, as text."""
    home.ok("diagnose", "-o", str(output), *argv, timeout=180, **environ)
    assert output.stat().st_mode & 0o777 == 0o600
    content = {}
    with tarfile.open(output) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None and member.name.startswith("proa-diagnose/")
            content[member.name.removeprefix("proa-diagnose/")] = file.read().decode(errors="replace")
    again = home.proa("diagnose", "-o", str(output))
    assert (again.status, "[file-exists]" in again.err) == (2, True)
    return content


def test_an_agent_that_hangs_does_not_hinder_them(
    home: Home, machine: dict[str, Any], tmp_path: Path
) -> None:
    pid = home.agent_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        checks = _doctor(home)
        assert checks["agent"]["state"] == "fail" and str(pid) in checks["agent"]["message"]
        assert checks["engine"]["state"] == "skip" and checks["disk"]["state"] in ("ok", "warn")
        content = _bundle(home, tmp_path / "b.tar.gz")
        assert (
            "agent" in content["README.txt"] and "proa: dockerd ready" in content["logs/default-console.log"]
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    assert home.status()["state"] == "running"


def test_the_guests_logs_are_shown_and_followed(home: Home, machine: dict[str, Any]) -> None:
    assert "API listen" in home.ok("logs", "--source", "engine", "-n", "1000")
    assert "containerd" in home.ok("logs", "--source", "containerd")
    assert "listening" in home.ok("logs", "--source", "guest", "-n", "1000")


@pytest.mark.long
def test_the_logs_of_a_stopped_machine_are_kept(image: Path) -> None:
    with Home() as home:
        home.import_image(image)
        home.ok("start")
        home.ok("stop")
        for source, word in (("engine", "API listen"), ("containerd", "containerd")):
            told = home.ok("logs", "--source", source, "-n", "10000")
            assert "kept at" in told and word in told
        checks = _doctor(home)
        assert checks["engine"]["state"] == "skip" and "proa start" in checks["engine"]["hint"]
        home.ok("start")
        (pid,) = home.hypervisors()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: home.status()["state"] == "broken", 30, "its death is seen")
        lost = home.proa("logs", "--source", "engine")
        assert (lost.status, "--source console" in lost.err) == (1, True), lost
        home.ok("start")
        told = home.ok("reset", "--keep-data", "--yes")
        assert "default" in told and home.agent_pid() is None and not home.hypervisors()
        assert (home.folder / "machines/default/data.qcow2").exists()
        assert not (home.folder / "run").exists() and not (home.folder / "logs").exists()
        assert home.status()["state"] == "stopped"
        home.ok("start")
        home.ok("reset", "--yes")
        assert not home.hypervisors() and not home.folder.exists()
