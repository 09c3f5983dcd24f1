"""The guest's Docker CLI over the API: the streams that it claims, and what it sees of this computer."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from proa.agent.calls import Reverse
from proa.agent.share_rules import ShareRules
from proa.model.host_path import BadPath
from proa.model.machine import MachineConfig
from proa.system.paths import Places
from proa_guest import wire


class Serving(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard = b""

    def data_received(self, data: bytes) -> None:
        self.heard += data


async def reverse() -> tuple[socket.socket, list[Serving], list[str]]:
    """The guest's side of a parked stream, who serves it, and what was said of it."""
    near, far = socket.socketpair()
    served: list[Serving] = []
    claimed: list[str] = []

    def serve() -> Serving:
        served.append(Serving())
        return served[-1]

    await asyncio.get_running_loop().create_connection(
        lambda: Reverse(serve, lambda: claimed.append("claimed")), sock=near
    )
    return far, served, claimed


async def soon(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("pieces", [[b"claim\nGET /"], [b"cl", b"aim\n", b"GET /"], [b"claim", b"\nGET /"]])
async def test_a_claimed_stream_is_served_with_all_that_came(pieces: list[bytes]) -> None:
    guest, served, claimed = await reverse()
    for piece in pieces:
        guest.sendall(piece)
        await asyncio.sleep(0)
    await soon(lambda: served and served[0].heard == b"GET /")
    assert claimed == ["claimed"]
    guest.close()


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"claim!\n", b"\n"])
async def test_what_is_no_claim_ends_the_stream(said: bytes) -> None:
    guest, served, claimed = await reverse()
    guest.setblocking(False)
    guest.sendall(said)
    async with asyncio.timeout(10):
        assert await asyncio.get_running_loop().sock_recv(guest, 10) == b""
    assert not served and not claimed
    guest.close()


def test_the_claim_is_the_wires() -> None:
    assert wire.CLAIM.endswith(b"\n")


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShareRules:
    """A user's home is shared, and one folder that is reached over a link as well."""
    for name in ("me/project", "me/.ssh", "elsewhere", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("PROA_HOME", str(tmp_path / "h"))
    folders = ["~", str(tmp_path / "link"), str(tmp_path / "gone")]
    config = MachineConfig(name="default", values={"shares.folders": folders})
    return ShareRules(Places.current(), lambda: config)


def test_shares_are_seen_where_they_are_by_each_of_their_names(rules: ShareRules, tmp_path: Path) -> None:
    view = rules.view(str(tmp_path / "me/project"), str(tmp_path / "me"))
    assert (view.cwd, view.home, view.note) == (str(tmp_path / "me/project"), str(tmp_path / "me"), "")
    assert set(view.folders) == {
        (str(tmp_path / "me"), str(tmp_path / "me")),
        (str(tmp_path / "elsewhere"), str(tmp_path / "link")),
        (str(tmp_path / "elsewhere"), str(tmp_path / "elsewhere")),
    }


@pytest.mark.parametrize("folder", ["other", "me/.ssh"])
def test_a_folder_that_is_not_shared_is_said_with_the_way_out(
    rules: ShareRules, tmp_path: Path, folder: str
) -> None:
    view = rules.view(str(tmp_path / folder), str(tmp_path / "me"))
    assert view.cwd == ""
    assert str(tmp_path / folder) in view.note and "proa share add" in view.note


def test_a_home_that_is_no_path_is_refused(rules: ShareRules, tmp_path: Path) -> None:
    with pytest.raises(BadPath):
        rules.view(str(tmp_path / "me"), "not/whole")
