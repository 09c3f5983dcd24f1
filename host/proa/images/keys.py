"""Whose signatures count: Proa's release keys, keys that the user trusts, and this installation's own pair.

A public key's file is one line: `ed25519 BASE64 COMMENT`. `keys/trusted/NAME.pub` are the user's; nothing
but a person puts them there. `keys/local.key` (0600) signs what is built here and never leaves;
`keys/local.pub` is its public half, for the `keys/trusted` of others.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from proa.model.errors import ProaError
from proa.system.files import make_private_folder, read_bytes, write_atomic

# Public keys that Proa's releases are signed with, as lines of a key's file. A key joins with the first
# release that it signs; until then only what was built here, or what the user trusts, is taken.
RELEASE_KEYS: tuple[str, ...] = ()

KIND = "ed25519"
_PRIVATE = "proa-private-key 1"  # the private file's first words: format and version
_LENGTH = 32  # bytes of either half of an ed25519 pair (RFC 8032)


@dataclass(frozen=True)
class TrustedKey:
    """A public key, and what its signature says of an image."""

    public: bytes
    name: str  # `release`, `local`, or the name that the user gave it
    channel: str  # whose versions are counted together: `release`, `local`, or `trusted-NAME`

    @property
    def id(self) -> str:
        return key_id(self.public)


def key_id(public: bytes) -> str:
    """A short name for a public key: the first half of its SHA-256, as hex."""
    return hashlib.sha256(public).hexdigest()[:32]


def parse_public(line: str) -> bytes:
    """The key in a public key's line. Raises ValueError."""
    words = line.split()
    if len(words) < 2 or words[0] != KIND:
        raise ValueError(f"it is not a line of the form `{KIND} BASE64 COMMENT`")
    key = base64.b64decode(words[1], validate=True)
    if len(key) != _LENGTH:
        raise ValueError(f"the key has {len(key)} bytes, and not {_LENGTH}")
    return key


class Keyring:
    """The keys of one installation, in `folder`."""

    def __init__(self, folder: Path, release: tuple[str, ...] = RELEASE_KEYS) -> None:
        self._folder = folder
        self._release = release

    @property
    def public_file(self) -> Path:
        """The public half of this installation's pair; there once something was built here."""
        return self._folder / "local.pub"

    @property
    def _private_file(self) -> Path:
        return self._folder / "local.key"

    def trusted(self) -> dict[str, TrustedKey]:
        """All keys whose signature counts, by their id. Raises ProaError `key-corrupt`."""
        keys = [TrustedKey(parse_public(line), "release", "release") for line in self._release]
        for path in sorted((self._folder / "trusted").glob("*.pub")):
            keys.append(TrustedKey(_read_public(path), path.stem, f"trusted-{path.stem}"))
        if self.public_file.exists():
            keys.append(TrustedKey(_read_public(self.public_file), "local", "local"))
        # A key that is known twice counts as the first: release, then the user's, then the local one.
        return {key.id: key for key in reversed(keys)}

    def sign(self, data: bytes) -> tuple[str, bytes]:
        """The local key's id and its signature of `data`; the pair is made where there is none.

        Raises ProaError `key-corrupt`, `key-not-private`.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        private = Ed25519PrivateKey.from_private_bytes(self._private())
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        line = f"{KIND} {base64.b64encode(public).decode()} images built here\n".encode()
        try:
            known = read_bytes(self.public_file)
        except FileNotFoundError:
            known = b""
        if known != line:
            write_atomic(self.public_file, line)
        return key_id(public), private.sign(data)

    def _private(self) -> bytes:
        path = self._private_file
        try:
            content = read_bytes(path)
        except FileNotFoundError:
            make_private_folder(self._folder)
            seed = os.urandom(_LENGTH)
            write_atomic(path, f"{_PRIVATE} {base64.b64encode(seed).decode()}\n".encode())
            return seed
        found = path.lstat()
        if sys.platform != "win32" and (found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077):
            raise ProaError(
                "key-not-private",
                f"the key is not used: {path}",
                why="others than you may read or change it",
                hint=f"if nobody did: chmod 600 {path}; else remove it and build the image again",
            )
        try:
            words = content.decode("ascii").rsplit(None, 1)
            if len(words) != 2 or words[0] != _PRIVATE:
                raise ValueError("it is not a private key of version 1")
            seed = base64.b64decode(words[1], validate=True)
            if len(seed) != _LENGTH:
                raise ValueError(f"the key has {len(seed)} bytes, and not {_LENGTH}")
        except (ValueError, binascii.Error) as error:
            raise _corrupt(path, str(error)) from error
        return seed


def _read_public(path: Path) -> bytes:
    try:
        return parse_public(read_bytes(path).decode("ascii"))
    except (ValueError, binascii.Error) as error:
        raise _corrupt(path, str(error)) from error
    except FileNotFoundError as error:
        raise _corrupt(path, "it is a link to nothing") from error


def _corrupt(path: Path, why: str) -> ProaError:
    return ProaError(
        "key-corrupt",
        f"the key cannot be used: {path}",
        why=why,
        hint="mend the file or remove it; images that it signed are refused until it is there again",
    )
