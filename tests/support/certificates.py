"""Certificates of a test's own authority, made by openssl(1)."""

from __future__ import annotations

from pathlib import Path

from tests.support.commands import run


def make_authority(folder: Path, address: str) -> tuple[Path, Path, Path]:
    """The authority's certificate, and a certificate and key that it vouches for, of an IP `address`."""
    authority, key = folder / "authority.pem", folder / "authority.key"
    _openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=a test's authority",
        "-keyout", str(key), "-out", str(authority),
    )  # fmt: skip
    certificate, server_key, request = folder / "server.pem", folder / "server.key", folder / "server.csr"
    _openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=registry",
        "-keyout", str(server_key), "-out", str(request),
    )  # fmt: skip
    names = folder / "names.conf"
    names.write_text(f"subjectAltName=IP:{address}\n")
    _openssl(
        "x509", "-req", "-in", str(request), "-CA", str(authority), "-CAkey", str(key), "-days", "2",
        "-set_serial", "1", "-extfile", str(names), "-out", str(certificate),
    )  # fmt: skip
    return authority, certificate, server_key


def _openssl(*argv: str) -> None:
    run(["openssl", *argv], timeout=60).check()
