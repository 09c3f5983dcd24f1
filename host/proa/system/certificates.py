"""Certificates of authorities: read from PEM files, proved to be certificates, found on this host."""

from __future__ import annotations

import re
import ssl
import sys
from pathlib import Path

from proa.model.errors import ProaError
from proa.system.files import read_bytes

MOST_FILE = 1 << 20  # bytes; the whole of Debian's authorities has 220 KiB
_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# update-ca-certificates(8), update-ca-trust(8)
_ADDED = ("/usr/local/share/ca-certificates/**/*.crt", "/etc/pki/ca-trust/source/anchors/*")


def read_pem(path: Path) -> tuple[str, ...]:
    """The certificates in a PEM file, and nothing else of it (a key stays where it is).

    Raises ProaError `bad-certificate`.
    """
    try:
        blocks = _BLOCK.findall(read_bytes(path, MOST_FILE).decode("ascii", "ignore"))
        if not blocks:
            raise _bad(path, "there is no PEM certificate in it")
        for block in blocks:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=block)
    except FileNotFoundError as error:
        raise _bad(path, "there is no such file") from error
    except (ssl.SSLError, ValueError) as error:
        raise _bad(path, f"a certificate in it is damaged ({error})") from error
    return tuple(blocks)


def added_on_host() -> tuple[Path, ...]:
    """Files of authorities that were added to this host; empty where the system keeps them elsewhere."""
    if sys.platform != "linux":
        return ()
    root = Path("/")
    found = [path for pattern in _ADDED for path in root.glob(pattern.removeprefix("/")) if path.is_file()]
    return tuple(sorted(found))


def _bad(path: Path, why: str) -> ProaError:
    return ProaError(
        "bad-certificate",
        f"{path} cannot be used as an authority's certificate",
        why=why,
        hint="it must be a PEM file; see what is set: proa config get certificates",
        usage=True,
    )
