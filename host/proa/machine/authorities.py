"""Which authorities a machine trusts besides the usual ones, as one PEM text for its guest."""

from __future__ import annotations

import logging
from pathlib import Path

from proa.model.errors import ProaError
from proa.model.machine import MachineConfig
from proa.system.certificates import added_on_host, read_pem

log = logging.getLogger("proa.machine")

MOST = 1 << 20  # characters; they go through the hypervisor's slow door for the guest's config


def collect(config: MachineConfig) -> str:
    """The certificates that the settings name. Raises ProaError `bad-certificate`.

    What the host's own folders hold besides certificates is passed over: nobody named it.
    """
    blocks = [block for path in config.setting("certificates") for block in read_pem(Path(path))]
    if config.setting("host_certificates"):
        for path in added_on_host():
            try:
                blocks += read_pem(path)
            except ProaError as error:
                log.warning("%s: %s", config.name, error)
    text = "".join(f"{block}\n" for block in dict.fromkeys(blocks))
    if len(text) > MOST:
        raise ProaError(
            "bad-certificate",
            "there are too many certificates",
            why=f"they have {len(text) >> 10} KiB, and {MOST >> 10} can be given to a machine",
            hint="name fewer (certificates), or set host_certificates to false",
            usage=True,
        )
    return text
