"""The config that a guest is given at boot, and what belongs to it: addresses and the link's secret.

Its shape is read by `proa_guest.init`; the addresses are those of the driver's two network cards.
"""

from __future__ import annotations

import secrets
import time
from typing import Any
from urllib.parse import urlsplit

import msgspec

from proa.model.machine import MachineConfig

SECRET_BYTES = 32


def new_secret() -> bytes:
    """A link secret: made anew at every boot."""
    return secrets.token_bytes(SECRET_BYTES)


def daemon_json(config: MachineConfig) -> dict[str, Any]:
    """The engine's daemon.json: the keys of `daemon`, and what other settings add to them."""
    content = dict(config.daemon)
    for setting, key in (
        ("registry.mirrors", "registry-mirrors"),
        ("registry.insecure", "insecure-registries"),
    ):
        if added := config.setting(setting):
            there = content.get(key)
            # Another type than a list is the engine's to refuse.
            content[key] = added if there is None else [*added, *there] if isinstance(there, list) else there
    proxies = {
        "http-proxy": _from_guest(config.setting("proxy.http")),
        "https-proxy": _from_guest(config.setting("proxy.https")),
        "no-proxy": ",".join(config.setting("proxy.no")),
    }
    chosen = {key: value for key, value in proxies.items() if value}
    there = content.get("proxies", {})
    if chosen and isinstance(there, dict):
        content["proxies"] = {**there, **chosen}
    return content


def _from_guest(proxy: str) -> str:
    """A proxy on the host's loopback by the name that the host has in the guest."""
    parts = urlsplit(proxy)
    host = parts.hostname or ""
    if host not in ("localhost", "::1") and not host.startswith("127."):
        return proxy
    user, at, _ = parts.netloc.rpartition("@")
    port = f":{parts.port}" if parts.port else ""
    return parts._replace(netloc=f"{user}{at}host.docker.internal{port}").geturl()


def render(config: MachineConfig, secret: bytes, certificates: str = "") -> bytes:
    """The guest's config as JSON, version 1. `certificates` (PEM) are trusted besides the usual ones."""
    content: dict[str, Any] = {
        "version": 1,
        "name": config.name,
        "link": {
            "address": "10.0.3.15",
            "prefix": 24,
            "port": 7000,
            "mac": "52:54:00:70:72:02",
            "secret": secret.hex(),
        },
        "network": {
            "mac": "52:54:00:70:72:01",
            "address": "10.0.2.15",
            "prefix": 24,
            "gateway": "10.0.2.2",
            "dns": ["10.0.2.3"],
        },
        "daemon": daemon_json(config),
        "certificates": certificates,
        "time": time.time(),
    }
    return msgspec.json.encode(content)
