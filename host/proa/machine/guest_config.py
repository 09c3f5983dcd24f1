"""The config that a guest is given at boot, and what belongs to it: addresses and the link's secret.

Its shape is read by `proa_guest.init`; the addresses are those of the driver's two network cards.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

import msgspec

from proa.model.machine import MachineConfig

SECRET_BYTES = 32


def new_secret() -> bytes:
    """A link secret: made anew at every boot."""
    return secrets.token_bytes(SECRET_BYTES)


def render(config: MachineConfig, secret: bytes) -> bytes:
    """The guest's config as JSON, version 1."""
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
        "daemon": config.daemon,
        "time": time.time(),
    }
    return msgspec.json.encode(content)
