"""doctor, diagnose and reset on installations without a guest: well, broken, and with nothing there."""

from __future__ import annotations

import base64
import json
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proa.model.doctor import ORDER
from tests.support.homes import Home


@pytest.fixture
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


def _doctor(home: Home, *argv: str, **environ: str) -> dict[str, dict[str, Any]]:
    result = home.proa("doctor", *argv, "--json", timeout=90, **environ)
    checks = json.loads(result.out)
    assert [check["name"] for check in checks] == list(ORDER), "each is there, once, in order"
    assert result.status == int(any(check["state"] == "fail" for check in checks))
    return {check["name"]: check for check in checks}


def test_without_a_machine_it_says_what_it_can_and_starts_none(home: Home) -> None:
    checks = _doctor(home, PATH="/nowhere")
    assert checks["agent"]["state"] == "ok"
    for name, state in (
        ("hypervisor", "fail"),
        ("image", "fail"),
        ("engine", "skip"),
        ("docker-cli", "warn"),
    ):
        assert checks[name]["state"] == state, checks[name]
        assert checks[name]["hint"]
    assert not list((home.folder / "machines").glob("[!.]*"))
    told = home.proa("doctor", PATH="/nowhere").out
    assert "to mend: hypervisor" in told


def test_without_an_agent_it_says_why_and_looks_at_the_rest(home: Home) -> None:
    home.ok("create", "default")
    pid = home.agent_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        checks = _doctor(home)
        assert (checks["agent"]["state"], f"kill {pid}" in checks["agent"]["hint"]) == ("fail", True)
        assert checks["engine"]["state"] == "skip" and checks["disk"]["state"] != "skip"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert _doctor(home)["agent"]["state"] == "ok"


def test_leftovers_and_a_config_that_cannot_be_read_are_named(home: Home) -> None:
    home.ok("create", "default")
    (home.folder / "machines/.old-gone").mkdir()
    (home.folder / "machines/default/machine.toml").write_text("cpus = = 1")
    checks = _doctor(home)
    assert checks["leftovers"]["state"] == "warn" and ".old-gone" in checks["leftovers"]["message"]
    assert checks["engine"]["state"] == "fail" and "machine.toml" in checks["engine"]["message"]
    assert checks["image"]["state"] == "fail" and "machine.toml" in checks["image"]["message"]


def test_a_home_that_cannot_be_is_no_reason_to_fall_over(home: Home) -> None:
    home.folder.write_text("a file is in the way")
    try:
        checks = _doctor(home)
        assert checks["agent"]["state"] == "fail" and checks["docker-cli"]["state"] in ("ok", "fail")
    finally:
        home.folder.unlink()


def test_a_bundle_of_a_broken_machine(home: Home, tmp_path: Path) -> None:
    home.ok("create", "default")
    (home.folder / "machines/default/machine.toml").write_text('password = "canary"\ncpus = = 1')
    output = tmp_path / "b.tar.gz"
    told = home.ok("diagnose", "-o", str(output))
    assert str(output) in told
    with tarfile.open(output) as archive:
        names = [member.name for member in archive]
        toml = archive.extractfile("proa-diagnose/machines/default/machine.toml")
        assert toml is not None
        assert toml.read() == b"password = ***\ncpus = = 1"
    assert "proa-diagnose/logs/agent.log" in names and "proa-diagnose/doctor.json" in names
    assert output.stat().st_mode & 0o777 == 0o600
    output.write_text("mine")
    for wrong in ([], ["-o", str(output)], ["-o", str(tmp_path)], ["-o", str(tmp_path / "none/x")]):
        assert home.proa("diagnose", *wrong).status == 2
    assert output.read_text() == "mine"
    home.ok("diagnose", "-o", str(output), "--force")
    assert tarfile.is_tarfile(output)


def test_a_reset_asks_and_then_leaves_nothing(home: Home) -> None:
    home.ok("create", "work")
    refused = home.proa("reset")
    assert (refused.status, "proa reset --yes" in refused.err) == (2, True)
    assert "machines/work" in refused.out and "KiB" in refused.out, "what would go is said first"
    assert home.agent_pid() is not None and (home.folder / "machines/work").is_dir()
    home.ok("reset", "--keep-data", "--yes")
    assert home.agent_pid() is None and not (home.folder / "run").exists()
    assert [machine["name"] for machine in json.loads(home.ok("list", "--json"))] == ["work"]
    told = home.ok("reset", "--yes")
    assert "freed" in told and not home.folder.exists()
    assert "nothing" in home.ok("reset", "--yes")
    assert not home.folder.exists(), "looking makes nothing"


def test_a_reset_leaves_what_is_not_proas(home: Home) -> None:
    home.ok("create", "work")
    (home.folder / "mine").write_text("precious")
    home.ok("reset", "--yes")
    assert [entry.name for entry in home.folder.iterdir() if not entry.name.startswith(".")] == ["mine"]


def test_no_secret_of_the_user_comes_into_a_bundle(home: Home, tmp_path: Path) -> None:
    home.ok("create", "default")
    (home.folder / "run/default").mkdir(exist_ok=True)
    (home.folder / "run/default/link.key").write_bytes(bytes(range(100, 132)))
    with (home.folder / "machines/default/machine.toml").open("a") as toml:
        toml.write(
            'labels = ["token=canary1"]\n[daemon.proxies]\nhttp-proxy = "http://u:canary2@p.example:1"\n'
        )
    with (home.folder / "logs/agent.log").open("a") as log:
        log.write(f"plain canary2 and canary3 and {bytes(range(100, 132)).hex()}\n")
    auth = base64.b64encode(b"user:canary3").decode()
    config = {"auths": {"r.example": {"auth": auth}}, "HttpHeaders": {"X-Key": "canary4"}, "new": "canary5"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "currentContext": "mine"}))
    output = tmp_path / "b.tar.gz"
    proxy = "http://u:canary6@p:1"
    home.ok("diagnose", "-o", str(output), DOCKER_CONFIG=str(tmp_path), HTTPS_PROXY=proxy, DOCKER_X="canary6")
    with tarfile.open(output) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        content = {name: file.read().decode() for name, file in files.items() if file is not None}
    for name, text in content.items():
        for planted in ("canary", auth, bytes(range(100, 132)).hex()):
            assert planted not in text, (name, text)
    assert '"mine"' in content["proa-diagnose/docker-config.json"]
    assert "HTTPS_PROXY" in content["proa-diagnose/host.json"]
