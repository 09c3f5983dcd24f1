"""manifest.sig, format 1: who vouches for the exact bytes of the manifest.json beside it.

JSON: `format`, `algorithm` (`ed25519`), `key` (the public key's id), `signature` (base64, 64 bytes).
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

import msgspec

from proa.images.keys import KIND, Keyring, TrustedKey
from proa.model.errors import ProaError

FORMAT = 1
NAME = "manifest.sig"
MOST = 4 << 10  # bytes; a signature has some 200


class Signature(msgspec.Struct, frozen=True):
    format: int
    algorithm: str
    key: str
    signature: str


def sign(manifest: bytes, keyring: Keyring) -> bytes:
    """The content of manifest.sig, by this installation's own key."""
    key, signature = keyring.sign(manifest)
    encoded = Signature(FORMAT, KIND, key, base64.b64encode(signature).decode())
    return msgspec.json.format(msgspec.json.encode(encoded), indent=1) + b"\n"


def check(manifest: bytes, signature: bytes | None, keyring: Keyring, where: Path | str) -> TrustedKey:
    """The key that signed `manifest`; None for `signature` is an unsigned image.

    Raises ProaError `image-unsigned`, `image-signature-wrong`, `image-signer-unknown`.
    """
    if signature is None:
        raise ProaError(
            "image-unsigned",
            f"the guest image is refused: {where}",
            why=f"it has no {NAME}: nobody vouches for it",
            hint="if you built it here: make image; else ask whoever gave it to you for a signed one",
        )
    try:
        told = msgspec.json.decode(signature, type=Signature)
        raw = base64.b64decode(told.signature, validate=True)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, binascii.Error) as error:
        raise _wrong(where, f"its {NAME} cannot be read") from error
    if (told.format, told.algorithm) != (FORMAT, KIND):
        raise _wrong(where, f"its {NAME} is of a kind that this Proa does not know")
    trusted = keyring.trusted().get(told.key)
    if trusted is None:
        raise ProaError(
            "image-signer-unknown",
            f"the guest image is refused: {where}",
            why=f"it is signed by the key {told.key[:32]!r}, which is not trusted here",
            hint="if you trust its maker, put their public key into the folder keys/trusted of Proa's data",
        )
    # Imported only where a signature is checked: it costs the agent 9 MiB.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(trusted.public).verify(raw, manifest)
    except InvalidSignature as error:
        raise _wrong(where, f"its manifest is not what the key {trusted.name!r} signed") from error
    return trusted


def _wrong(where: Path | str, why: str) -> ProaError:
    return ProaError(
        "image-signature-wrong",
        f"the guest image is refused: {where}",
        why=why,
        hint="get it again from whoever made it, or build one in a checkout: make image",
    )
