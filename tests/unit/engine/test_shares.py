"""Host folders in requests and answers: what the guest is asked for, and what the client is shown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proa.engine import mounts
from proa.engine.commands import Command, OpenEngine, Share, ToClient, ToEngine
from proa.engine.conversation import Conversation
from proa.engine.mounts import HostMount, Target

THERE = {"/home/me": Target("/run/proa/host/home/me", writable=True)}
READ_ONLY = {"/home/me": Target("/run/proa/host/home/me", writable=False)}


def create(body: bytes, chunked: bool = False) -> bytes:
    head = b"POST /v1.45/containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
    if chunked:
        return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def sent(commands: list[Command], kind: type[ToEngine] | type[ToClient]) -> bytes:
    return b"".join(command.data for command in commands if isinstance(command, kind))


@pytest.mark.parametrize(
    ("body", "expected"),
    (
        (
            {"HostConfig": {"Binds": ["/home/me:/x"]}},
            {"HostConfig": {"Binds": ["/run/proa/host/home/me:/x"]}},
        ),
        (
            {"hostconfig": {"BINDS": ["/home/me:/x:ro,z,cached"]}},
            {"hostconfig": {"BINDS": ["/run/proa/host/home/me:/x:ro"]}},
        ),
        (
            {"HostConfig": {"Binds": ["/home/me:/x:Z,rslave"]}},
            {"HostConfig": {"Binds": ["/run/proa/host/home/me:/x:rslave"]}},
        ),
        (
            {"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/home/me", "Target": "/x"}]}},
            {
                "HostConfig": {
                    "Mounts": [{"Type": "bind", "Source": "/run/proa/host/home/me", "Target": "/x"}]
                }
            },
        ),
        (
            {"DriverOpts": {"type": "none", "o": "bind", "device": "/home/me"}},
            {"DriverOpts": {"type": "none", "o": "bind", "device": "/run/proa/host/home/me"}},
        ),
        (
            {"TaskTemplate": {"ContainerSpec": {"Mounts": [{"Type": "bind", "Source": "/home/me"}]}}},
            {
                "TaskTemplate": {
                    "ContainerSpec": {"Mounts": [{"Type": "bind", "Source": "/run/proa/host/home/me"}]}
                }
            },
        ),
        (
            {"HostConfig": {"Binds": ["/var/run/docker.sock:/s", "data:/d"]}},
            {"HostConfig": {"Binds": ["/var/run/docker.sock:/s", "data:/d"]}},
        ),
    ),
)
def test_a_host_path_becomes_the_guests(body: object, expected: object) -> None:
    assert json.loads(mounts.rewrite(json.dumps(body).encode(), THERE)) == expected


def test_a_share_for_reading_is_mounted_for_reading() -> None:
    body = {
        "HostConfig": {
            "Binds": ["/home/me:/x:rw"],
            "Mounts": [{"Source": "/home/me", "Type": "bind", "ReadOnly": False}],
        }
    }
    made = json.loads(mounts.rewrite(json.dumps(body).encode(), READ_ONLY))["HostConfig"]
    assert made["Binds"] == ["/run/proa/host/home/me:/x:ro"]
    assert made["Mounts"][0]["ReadOnly"] is True
    options = {"DriverOpts": {"type": "none", "o": "bind", "device": "/home/me"}}
    assert json.loads(mounts.rewrite(json.dumps(options).encode(), READ_ONLY))["DriverOpts"]["o"] == "bind,ro"


def test_all_else_in_a_body_stays_as_it_was() -> None:
    body = (
        b'{"Memory":123456789012345678901234567890,"x":1.50e3,"y":[],"z":{},"t":true,"n":null,'
        b'"Cmd":["\\u00e9\\"\\\\"],"Cmd":["twice"],"HostConfig":{"Binds":["/home/me:/x"]}} {"behind":1}'
    )
    made = mounts.rewrite(body, THERE)
    assert made == body.replace(b'"/home/me:/x"', b'"/run/proa/host/home/me:/x"')


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["HostConfig", "binds", "Mounts", "Source", "Type", "DriverOpts", "device", "o", "k"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_no_host_path_is_left(content: object) -> None:
    body = json.dumps(content).encode()
    wanted = mounts.host_mounts(body)
    made = mounts.rewrite(body, {mount.path: Target("/sys/there", writable=True) for mount in wanted})
    assert mounts.host_mounts(made) == []


def test_what_the_api_says_of_a_missing_folder() -> None:
    body = {"HostConfig": {"Binds": ["/a:/x", "/b:/x"], "Mounts": [
        {"Type": "bind", "Source": "/b"},
        {"Type": "bind", "Source": "/c", "BindOptions": {"CreateMountpoint": True}},
    ]}}  # fmt: skip
    found = mounts.host_mounts(json.dumps(body).encode())
    assert found == [HostMount("/a", True), HostMount("/b", False), HostMount("/c", True)]


# -- the conversation ------------------------------------------------------------------------------

BODY = b'{"Image":"x","HostConfig":{"Binds":["/home/me:/x"]}}'


@pytest.mark.parametrize("chunked", (False, True))
def test_a_request_waits_until_its_folders_are_there(chunked: bool) -> None:
    talk = Conversation(shares=True)
    assert talk.client_data(create(BODY, chunked)) == [Share((HostMount("/home/me", True),))]
    assert not talk.wants_client
    assert talk.shared(THERE) == [OpenEngine()]
    head, _, body = sent(talk.engine_opened(), ToEngine).partition(b"\r\n\r\n")
    assert body == mounts.rewrite(BODY, THERE)
    assert b"Content-Length: %d" % len(body) in head
    assert b"chunked" not in head


def test_a_folder_that_is_refused_costs_no_connection() -> None:
    talk = Conversation(shares=True)
    talk.client_data(create(BODY))
    answer = sent(talk.not_shared(400, "no, because"), ToClient)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"no, because" in answer
    assert talk.idle


def test_a_client_that_left_meanwhile_is_over() -> None:
    talk = Conversation(shares=True)
    talk.client_data(create(BODY))
    talk.client_lost()
    assert talk.shared(THERE) == []
    assert talk.not_shared(400, "no") == []


def _asked(target: bytes) -> Conversation:
    talk = Conversation(shares=True)
    talk.client_data(b"GET %s HTTP/1.1\r\nHost: d\r\n\r\n" % target)
    talk.engine_opened()
    return talk


@pytest.mark.parametrize("pieces", (1, 7, 1000))
@pytest.mark.parametrize("chunked", (False, True))
def test_an_answer_shows_what_the_user_gave(pieces: int, chunked: bool) -> None:
    body = b'{"Binds":["/run/proa/host/home/me:/x"],"Source":"/run/proa/host/home/me"}'
    told = b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    if chunked:
        told = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + told
    talk = _asked(b"/v1.45/containers/box/json")
    out = b""
    for start in range(0, len(answer), pieces):
        out += sent(talk.engine_data(answer[start : start + pieces]), ToClient)
    head, _, shown = out.partition(b"\r\n\r\n")
    if chunked:  # in the framing that the engine has chosen
        size, shown, end = shown.split(b"\r\n", 2)
        assert (int(size, 16), end) == (len(shown), b"0\r\n\r\n")
        assert b"Transfer-Encoding: chunked" in head and b"Content-Length" not in head
    else:
        assert b"Content-Length: %d" % len(shown) in head
    assert json.loads(shown) == {"Binds": ["/home/me:/x"], "Source": "/home/me"}
    assert talk.idle


@pytest.mark.parametrize("target", (b"/containers/json", b"/volumes", b"/containers/x/json", b"/info"))
def test_an_answer_without_a_host_path_passes_as_its_own_bytes(target: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = head + b"2\r\n[]\r\n0\r\n\r\n"
    talk = _asked(target)
    assert sent(talk.engine_data(answer), ToClient) == answer
    assert talk.idle
