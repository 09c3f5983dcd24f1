from __future__ import annotations

import json

import pytest

from proa.machine.guest_config import daemon_json, render
from proa.model.machine import MachineConfig


def test_settings_and_keys_of_daemon_json_add_up() -> None:
    config = MachineConfig(
        name="x",
        daemon={"registry-mirrors": ["https://b"], "debug": True, "proxies": {"no-proxy": "b"}},
        values={"registry.mirrors": ["https://a"], "registry.insecure": ["c:1"], "proxy.http": "http://p:1"},
    )
    assert daemon_json(config) == {
        "registry-mirrors": ["https://a", "https://b"],
        "insecure-registries": ["c:1"],
        "debug": True,
        "proxies": {"no-proxy": "b", "http-proxy": "http://p:1"},
    }
    assert config.daemon["registry-mirrors"] == ["https://b"], "the config itself stays"


@pytest.mark.parametrize(
    ("proxy", "seen"),
    [
        ("http://localhost:3128", "http://host.docker.internal:3128"),
        ("http://me:p%40w@127.0.0.1", "http://me:p%40w@host.docker.internal"),
        ("http://[::1]:8080/", "http://host.docker.internal:8080/"),
        ("http://proxy.example.com:3128", "http://proxy.example.com:3128"),
    ],
)
def test_a_proxy_of_the_host_is_named_as_the_guest_sees_it(proxy: str, seen: str) -> None:
    config = MachineConfig(name="x", values={"proxy.https": proxy})
    assert daemon_json(config)["proxies"] == {"https-proxy": seen}


def test_certificates_are_handed_over() -> None:
    assert json.loads(render(MachineConfig(name="x"), b"s", "PEM"))["certificates"] == "PEM"
