"""What a memory image depends on: were any of it another, the guest in it would wake in a strange machine."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from proa.drivers.base import BootSpec, Driver
from proa.machine import guest_config
from proa.model.machine import MachineConfig
from proa_guest import wire

CERTIFICATES = "certificates"


def fingerprint(
    config: MachineConfig, image: str, spec: BootSpec, driver: Driver, certificates: str
) -> dict[str, str]:
    """Words for a person, by what they are of; `image` is the guest image's id. Raises ProaError."""
    # What a guest is given at its boot, without what differs from boot to boot.
    given = msgspec.json.decode(guest_config.render(config, b""), type=dict[str, Any])
    given.pop("time")
    settings = msgspec.json.encode(given, order="sorted")
    return {
        **driver.fingerprint(spec),
        "guest image": image,
        "protocol": str(wire.HIGHEST),
        "disk": str(config.disk),
        # Agreed with the guest's kernel as it mounts. Not named where it is as ever, for images of before.
        **({"locks": locks} if (locks := config.setting("shares.locks")) != "guest" else {}),
        "settings": hashlib.blake2b(settings, digest_size=16).hexdigest(),
        CERTIFICATES: hashlib.blake2b(certificates.encode(), digest_size=16).hexdigest(),
    }
