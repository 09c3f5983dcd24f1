"""No form of a secret gets through, and what a reader needs stays."""

from __future__ import annotations

import base64
import json
import time

import pytest

from proa.cli.masking import MASKED, Mask, looks_secret, secrets_in

CANARY = "C4naryC4nary"
BASE64 = base64.b64encode(f"user:{CANARY}".encode()).decode()
KEY = f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}AAAA\n{CANARY}BBBB\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    "text",
    [
        f"http://user:{CANARY}@proxy:3128/x",
        f"http_proxy=https://u:{CANARY}@h NO_PROXY=y",
        f"http://user:{CANARY}/with@slash@host/",
        f"https://{CANARY}@host/repository.git",
        f'{{"HttpProxy":"http://u:{CANARY}@p:1"}}',
        f"Authorization: Bearer {CANARY}",
        f"> proxy-authorization: Basic {CANARY}",
        f"X-Registry-Auth: {CANARY}==",
        f"map[Authorization:[Bearer {CANARY}] Host:[x]]",
        f"Cookie: a={CANARY}; b={CANARY}",
        f"sent with bearer {CANARY}",
        f"password={CANARY} next",
        f"MYSQL_ROOT_PASSWORD={CANARY}",
        f"db.password: '{CANARY}'",
        f'the "token" : "{CANARY} {CANARY}"',
        f'msg="{{\\"auth\\":\\"{CANARY}\\"}}"',
        f"secret={CANARY}&x=1",
        f"run --password {CANARY} --tls",
        f"run --api-key '{CANARY} {CANARY}'",
        f"AWS_SECRET_ACCESS_KEY={CANARY}",
        KEY,
        f"before\n{KEY}\nafter",
        KEY.partition("-----END")[0],
        f"{CANARY}AAAAAAAA\n{CANARY}BBBBBBBB\n-----END PRIVATE KEY-----\nrest",
        json.dumps({"key": KEY}),
        f"eyJhbGciOiJI.{CANARY}.x",
        f"SWMTKN-1-{CANARY}{CANARY}",
    ],
)
def test_every_form_of_a_secret_is_masked(text: str) -> None:
    masked = Mask().text(text)
    assert "C4nary" not in masked
    assert MASKED in masked
    assert Mask().text(masked).count("C4nary") == 0, "masked twice is masked"


@pytest.mark.parametrize(
    "text",
    [
        'level=info msg="API listen on /run/docker.sock"',
        "https://index.example/v1/ and http://10.0.2.2:5000/x",
        "user@example.org wrote",
        "2026-01-01 INFO proa.agent: agent 0.1.0 is up, pid 12",
        "Kernel panic - not syncing: VFS",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Mask().text(text) == text


def test_known_secrets_are_masked_wherever_they_stand_and_whatever_they_hold() -> None:
    mask = Mask([CANARY, BASE64, "short"])
    assert mask.text(f"x{CANARY}y short") == f"x{MASKED}y short"
    assert mask.text(f"a {BASE64} b") == f"a {MASKED} b"
    only = Mask([base64.b64encode(b"user:other-word").decode()])
    assert only.text("said other-word aloud") == f"said {MASKED} aloud"


def test_data_keeps_its_shape_and_loses_its_secrets() -> None:
    content = {
        "Env": [f"A={CANARY}", "PATH=/bin"],
        "Labels": {"com.example": CANARY},
        "Command": f"sh -c {CANARY}",
        "Args": ["serve", CANARY],
        "RegistryConfig": {"IndexConfigs": {"docker": {"Secure": True}}},
        "IndexServerAddress": "https://index.example/v1/",
        "auths": {"registry.example": {"auth": CANARY, "email": CANARY}},
        "nested": [{"password": {"value": CANARY}, "tokens": [CANARY, CANARY]}],
        "HttpProxy": f"http://u:{CANARY}@p:1",
        "count": 3,
        "none": None,
    }
    masked = Mask().data(content)
    assert "C4nary" not in json.dumps(masked)
    assert isinstance(masked, dict)
    assert masked["Env"] == [f"A={MASKED}", f"PATH={MASKED}"]
    assert masked["Labels"] == {"com.example": MASKED}
    assert masked["Command"] == f"sh {MASKED}"
    assert masked["RegistryConfig"] == content["RegistryConfig"]
    assert masked["IndexServerAddress"] == content["IndexServerAddress"]
    assert masked["auths"] == {"registry.example": MASKED}
    assert (masked["count"], masked["none"]) == (3, None)


def test_secrets_are_found_in_data() -> None:
    content = {"proxies": {"http-proxy": "http://u:p%40ss@h"}, "x": [{"token": "t1"}], "name": "n"}
    assert set(secrets_in(content)) == {"p%40ss", "p@ss", "t1"}


@pytest.mark.parametrize(("name", "is_one"), [("DB_PASSWORD", True), ("authToken", True), ("PATH", False)])
def test_names_tell(name: str, is_one: bool) -> None:
    assert looks_secret(name) is is_one


@pytest.mark.parametrize("text", ["A" * 400_000, "a=" * 200_000, "x-" * 200_000, "A" * 64 + "\n"])
def test_no_log_takes_long(text: str) -> None:
    """A hostile guest writes its own logs: the patterns stay near linear (they take 0.1 s here)."""
    began = time.process_time()
    Mask().text(text if len(text) > 100 else text * 8000)
    assert time.process_time() - began < 10
