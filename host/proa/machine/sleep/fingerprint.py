"""What a memory image depends on: were any of it another, the guest in it would wake in a strange machine."""

from __future__ import annotations

import hashlib

import msgspec

from proa.drivers.base import BootSpec, Driver
from proa.model.machine import MachineConfig
from proa_guest import wire


def fingerprint(config: MachineConfig, image: str, spec: BootSpec, driver: Driver) -> dict[str, str]:
    """Words for a person, by what they are of; `image` is the guest image's id. Raises ProaError."""
    settings = msgspec.json.encode(config.daemon, order="sorted")
    return {
        **driver.fingerprint(spec),
        "guest image": image,
        "protocol": str(wire.HIGHEST),
        "disk": str(config.disk),
        "settings": hashlib.blake2b(settings, digest_size=16).hexdigest(),
    }
