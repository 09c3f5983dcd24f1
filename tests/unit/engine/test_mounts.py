"""Every field that can carry a mount, in every spelling the engine accepts, against a forbidden folder."""

from __future__ import annotations

import json

import pytest

from proa.engine import mounts
from proa.engine.commands import OpenEngine
from proa.engine.conversation import Conversation

EVIL = "/home/user/secret"


def _paths(body: bytes) -> list[str]:
    return [mount.path for mount in mounts.host_mounts(body)]


FIELDS = {
    "binds": '{"HostConfig":{"Binds":["%s:/x"]}}',
    "binds with options": '{"HostConfig":{"Binds":["data:/y","%s:/x:ro,z"]}}',
    "mounts": '{"HostConfig":{"Mounts":[{"Type":"bind","Source":"%s","Target":"/x"}]}}',
    "mounts without a type": '{"HostConfig":{"Mounts":[{"Source":"%s","Target":"/x"}]}}',
    "mount's volume driver": '{"HostConfig":{"Mounts":[{"Type":"volume","Source":"v",'
    '"VolumeOptions":{"DriverConfig":{"Name":"local","Options":{"type":"none","o":"bind","device":"%s"}}}}]}}',
    "volume": '{"Name":"v","Driver":"local","DriverOpts":{"type":"none","o":"bind,rw","device":"%s"}}',
    "volume by its type": '{"DriverOpts":{"type":"bind","device":"%s"}}',
    "volume, rbind": '{"DriverOpts":{"o":"rw, rbind","device":"%s"}}',
    "service": '{"TaskTemplate":{"ContainerSpec":{"Mounts":[{"Type":"bind","Source":"%s","Target":"/x"}]}}}',
    "second of a doubled key": '{"HostConfig":{"Binds":[]},"HostConfig":{"Binds":["%s:/x"]}}',
    "first of a doubled key": '{"HostConfig":{"Binds":["%s:/x"]},"HostConfig":{}}',
    "doubled inside": '{"HostConfig":{"Binds":["%s:/x"],"Binds":null}}',
    "doubled type": '{"HostConfig":{"Mounts":[{"Type":"bind","Type":"volume","Source":"%s"}]}}',
}


def _spellings(text: str) -> list[str]:
    return [
        text,
        text.replace("HostConfig", "hostconfig").replace("Binds", "BINDS").replace("Mounts", "mOUNTS"),
        text.replace("Source", "SOURCE").replace("DriverOpts", "driveropts").replace("Type", "type"),
        # Go folds the long s and the Kelvin sign too
        text.replace("Binds", "Bind\u017f")
        .replace("HostConfig", "Ho\u017ftConfig")
        .replace("TaskTemplate", "Tas\u212aTemplate"),
        text.replace("Binds", "\\u0042inds").replace("/home", "\\u002fhome"),
        " \n\t" + text + "\n",
    ]


@pytest.mark.parametrize("field", FIELDS)
def test_a_forbidden_folder_is_seen_through_every_field_in_every_spelling(field: str) -> None:
    for text in _spellings(FIELDS[field] % EVIL):
        assert _paths(text.encode()) == [EVIL], text


@pytest.mark.parametrize(
    "source",
    [
        "/",
        "/etc",
        "/proc/../etc",
        "/var/run/docker.sock/../../x",
        "//etc",
        "C:\\Users\\me",
        "d:/x",
        "~/x",
        "./here",
        "../up",
        "/sysx",
        "/lib/modules-evil",
        "\\\\server\\share",
    ],
)
def test_host_paths_of_all_forms(source: str) -> None:
    body = {"HostConfig": {"Binds": [f"{source}:/x"]}}
    assert _paths(json.dumps(body).encode()) == [source]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"HostConfig": None},
        {"HostConfig": {"Binds": None, "Mounts": None}},
        {"HostConfig": {"Binds": ["data:/var/lib/data", "anonymous", "/only/in/the/container"]}},
        {"HostConfig": {"Binds": ["/var/run/docker.sock:/var/run/docker.sock", "/run/docker.sock:/x"]}},
        {
            "HostConfig": {
                "Binds": [
                    "/lib/modules:/lib/modules:ro",
                    "/sys:/sys",
                    "/proc:/host/proc",
                    "/sys/fs/cgroup:/c",
                ]
            }
        },
        {
            "HostConfig": {
                "Mounts": [
                    {"Type": "tmpfs", "Target": "/x"},
                    {"Type": "volume", "Source": "v", "Target": "/y"},
                ]
            }
        },
        {"DriverOpts": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}},
        {"DriverOpts": {"type": "nfs", "o": "addr=10.0.0.1,rw", "device": ":/export"}},
        {"Cmd": ["/bin/sh", "-c", "cat /etc/passwd"], "Volumes": {"/data": {}}},
    ],
)
def test_what_is_no_host_folder_passes(body: dict[str, object]) -> None:
    assert _paths(json.dumps(body).encode()) == []


@pytest.mark.parametrize("body", [b"", b"{", b"\x00", b"{'a':1}", b"\xef\xbb\xbf{}", b'{"a":01}', b"nul"])
def test_what_is_no_json_for_the_engine_either(body: bytes) -> None:
    with pytest.raises(mounts.NotJson):
        _paths(body)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000])
def test_what_the_engine_could_read_otherwise_is_not_guessed(body: bytes) -> None:
    with pytest.raises(mounts.Unreadable):
        _paths(body)


@pytest.mark.parametrize("behind", [b"", b"}", b"]", b" {}", b"x"])
def test_what_stands_behind_the_first_value_hides_nothing(behind: bytes) -> None:
    """Go's decoder reads one value; whether it minds the rest depends on what that is."""
    assert _paths(b' \n{"HostConfig":{"Binds":["/x:/y"]}}' + behind) == ["/x"]


def test_a_large_body_is_read_whole() -> None:
    body = {
        "Labels": {str(number): "x" * 1000 for number in range(10_000)},
        "HostConfig": {"Binds": [f"{EVIL}:/x"]},
    }
    assert _paths(json.dumps(body).encode()) == [EVIL]


@pytest.mark.parametrize(
    "target",
    [
        "/containers/create",
        "/v1.45/containers/create?name=x",
        "/v1.45//containers/create",
        "/containers/%63reate",
        "/v1.24/containers/create/",
        "http://docker/v1.45/containers/create",
        "/volumes/create",
        "/v1.45/services/create",
        "/services/abc/update?version=3",
        "/v1.45/./containers/x/../create",
    ],
)
def test_requests_that_carry_mounts_in_every_spelling(target: str) -> None:
    assert mounts.carries_mounts(b"POST", mounts.path_of(target.encode()))


@pytest.mark.parametrize(
    "target", ["/containers/json", "/containers/abc/start", "/build?x=/containers/create", "/images/create"]
)
def test_other_requests_are_left_alone(target: str) -> None:
    assert not mounts.carries_mounts(b"POST", mounts.path_of(target.encode()))
    assert not mounts.carries_mounts(b"GET", "/containers/create")


def test_what_is_no_address_is_left_to_the_engine() -> None:
    asked = Conversation()
    [command] = asked.client_data(b"GET http://[x/containers/json HTTP/1.1\r\nHost: docker\r\n\r\n")
    assert isinstance(command, OpenEngine)


def test_the_refusal_names_the_folder_and_what_to_use() -> None:
    told = mounts.refusal(EVIL)
    assert EVIL in told and "-v NAME:" in told and "docker cp" in told
