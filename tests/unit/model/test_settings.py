from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proa.model import settings
from proa.model.errors import ProaError
from proa.model.settings import Effect

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/settings.md"


def test_the_documentation_is_the_tables() -> None:
    assert DOCUMENT.read_text() == settings.document(), settings.document.__doc__


@pytest.mark.parametrize("setting", settings.SETTINGS, ids=lambda setting: setting.key)
def test_every_default_and_example_is_a_value(setting: settings.Setting) -> None:
    assert setting.check(setting.default) == setting.default
    setting.parse([setting.example.strip('"')])


@pytest.mark.parametrize(
    ("key", "words", "value"),
    [
        ("cpus", ["2"], 2),
        ("memory", ["4096 MiB"], "4GiB"),
        (
            "registry.mirrors",
            ["https://a.example,https://b.example"],
            ["https://a.example", "https://b.example"],
        ),
        ("registry.insecure", ['["a:5000", "10.0.0.0/8"]'], ["a:5000", "10.0.0.0/8"]),
        ("proxy.http", [""], ""),
        ("certificates", ["/a b.pem", "/c,d.pem"], ["/a b.pem", "/c,d.pem"]),
        ("host_certificates", ["off"], False),
        ("daemon.debug", ["true"], True),
        ("daemon.log-opts.max-size", ["10m"], "10m"),
        ("daemon.log-opts", ['{"max-file": "3"}'], {"max-file": "3"}),
    ],
)
def test_what_is_typed_becomes_a_value(key: str, words: list[str], value: Any) -> None:
    assert settings.find(key).parse(words) == value


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("cpus", ["0"]),
        ("cpus", ["many"]),
        ("cpus", ["1", "2"]),
        ("memory", ["-1GiB"]),
        ("image", ["a\x1b[31mb"]),
        ("registry.mirrors", ["ftp://a"]),
        ("registry.mirrors", ["http://me:pw@a"]),
        ("registry.mirrors", ["http://[::1"]),
        ("registry.mirrors", ["[" * 5000]),
        ("registry.insecure", ["http://a:5000"]),
        ("registry.insecure", ["a b"]),
        ("proxy.http", ["proxy:3128"]),
        ("proxy.http", ["http://a:99999"]),
        ("host_certificates", ["perhaps"]),
        ("daemon.x", ["null"]),
        ("daemon.x", ["NaN"]),
        ("daemon.x", ["{broken"]),
        ("daemon.x", ["1" * 30]),
        ("daemon.x", ["[" * 20 + "]" * 20]),
        ("daemon.x", ["[" * 30000 + "]" * 30000]),
        ("daemon.x", ["x" * 70000]),
    ],
)
def test_what_cannot_be_meant_is_refused_with_an_example(key: str, words: list[str]) -> None:
    with pytest.raises(ProaError) as caught:
        settings.find(key).parse(words)
    assert (caught.value.code, caught.value.usage) == ("bad-setting", True)
    assert f"proa config set {key}" in caught.value.hint


@pytest.mark.parametrize("key", ["memroy", "daemon.", "daemon.a b", "daemon.a..b", "", "registry", "daemon"])
def test_an_unknown_key_is_said(key: str) -> None:
    with pytest.raises(ProaError) as caught:
        settings.find(key)
    assert caught.value.code == "unknown-setting"


def test_a_near_key_is_offered() -> None:
    with pytest.raises(ProaError) as caught:
        settings.find("registry.mirror")
    assert "registry.mirrors" in caught.value.hint


@pytest.mark.parametrize("content", [{"daemon": {"hosts": []}}, {"daemon": {"data-root": "/x"}}])
def test_what_would_cut_the_engine_off_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ProaError) as caught:
        settings.read(content)
    assert caught.value.code == "setting-not-yours"


def test_only_what_the_engine_reloads_is_live() -> None:
    assert settings.find("daemon.debug").effect is Effect.LIVE
    assert settings.find("daemon.log-opts.max-size").effect is Effect.RESTART


def test_passwords_are_hidden_wherever_they_are() -> None:
    value = {"a": ["http://me:p%40w@host:1/x", 3], "b": "https://token@host"}
    assert settings.masked(value) == {"a": ["http://***@host:1/x", 3], "b": "https://***@host"}
    with pytest.raises(ProaError) as caught:
        settings.find("proxy.http").parse(["ftp://me:secret@host"])
    assert "secret" not in str(caught.value)
