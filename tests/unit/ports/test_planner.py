from __future__ import annotations

from typing import Any

import msgspec
import pytest

from proa.ports.planner import Bind, Key, Retarget, Unbind, overlap, plan, wanted


def container(*ports: dict[str, Any], address: str = "172.17.0.2", name: str = "/web") -> dict[str, Any]:
    return {
        "Id": "a" * 64,
        "Names": [name],
        "Ports": list(ports),
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": address}}},
    }


def port(ip: str, public: int, private: int = 80, kind: str = "tcp") -> dict[str, Any]:
    return {"IP": ip, "PublicPort": public, "PrivatePort": private, "Type": kind}


def test_a_port_leads_to_its_container_first_and_then_to_where_the_engine_publishes_it() -> None:
    found = wanted([container(port("0.0.0.0", 8080), port("::", 8080))])
    assert set(found) == {Key("0.0.0.0", 8080, "tcp"), Key("::", 8080, "tcp")}
    assert found[Key("0.0.0.0", 8080, "tcp")].targets == ("tcp:172.17.0.2:80", "tcp:127.0.0.1:8080")
    assert found[Key("::", 8080, "tcp")].targets == ("tcp:172.17.0.2:80", "tcp:[::1]:8080")
    assert found[Key("::", 8080, "tcp")].container == "web"


def test_a_container_without_an_address_is_reached_where_it_is_published() -> None:
    (binding,) = wanted([container(port("127.0.0.1", 5432, 5432), address="")]).values()
    assert binding.targets == ("tcp:127.0.0.1:5432",)


def test_exposed_ports_and_strange_addresses_are_passed_over() -> None:
    assert wanted([container({"PrivatePort": 80, "Type": "tcp"}, port("not an address", 80))]) == {}
    assert wanted([{"Id": "x", "Names": None, "Ports": None, "NetworkSettings": None}]) == {}


@pytest.mark.parametrize(
    "hostile", [None, {}, [1], [{"Id": 5}], [{"Id": "x", "Ports": [{"PrivatePort": "80"}]}]]
)
def test_a_list_that_is_none_is_refused(hostile: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        wanted(hostile)


def test_a_hostile_list_binds_no_endless_number_of_ports() -> None:
    many = [container(*(port("127.0.0.1", number) for number in range(1, 60_000)))]
    assert len(wanted(many)) == 4096


def test_what_changed_is_what_is_done_and_freed_ports_go_first() -> None:
    before = wanted([container(port("0.0.0.0", 1)), container(port("0.0.0.0", 2), name="/b")])
    after = wanted(
        [container(port("0.0.0.0", 2), name="/b", address="172.17.0.9"), container(port("0.0.0.0", 3))]
    )
    assert plan(before, after) == [
        Unbind(Key("0.0.0.0", 1, "tcp")),
        Retarget(after[Key("0.0.0.0", 2, "tcp")]),
        Bind(after[Key("0.0.0.0", 3, "tcp")]),
    ]
    assert plan(after, after) == []


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "::", False),
        ("::", "::1", True),
    ],
)
def test_which_addresses_get_into_each_others_way(one: str, other: str, found: bool) -> None:
    assert overlap(Key(one, 80, "tcp"), Key(other, 80, "tcp")) is found
    assert not overlap(Key(one, 80, "tcp"), Key(other, 81, "tcp"))
    assert not overlap(Key(one, 80, "tcp"), Key(other, 80, "udp"))
