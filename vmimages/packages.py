"""Which versions of the packages the archive has now: half of the key that an image is cached under."""

from __future__ import annotations

import os
import re
from pathlib import Path

from recipe import KERNELS, PACKAGES
from run import BuildError, run

EPOCH = "1735689600"  # 2025-01-01: one time for every file, so that the same input gives the same bytes
_INST = re.compile(r"^Inst (\S+) \(([^ )]+) .*\[\w+\]\)", re.MULTILINE)


def wanted(architecture: str) -> tuple[str, ...]:
    if architecture not in KERNELS:
        raise BuildError(f"architecture {architecture!r} is not one of {', '.join(KERNELS)}")
    return (*PACKAGES, KERNELS[architecture])


def mode() -> str:
    """mmdebstrap's: as root where we are root, else in a user namespace."""
    return "root" if os.geteuid() == 0 else "unshare"


def settle() -> None:
    """What would let the same input give other bytes, made the same for us and all that we run."""
    os.umask(0o022)
    for name in [name for name in os.environ if name.startswith("LC_") or name in ("LANG", "LANGUAGE")]:
        del os.environ[name]
    # Compiled Python holds sets in the order of their hashes.
    os.environ.update(LC_ALL="C.UTF-8", TZ="UTC", PYTHONHASHSEED="0", SOURCE_DATE_EPOCH=EPOCH)


def resolve(architecture: str, suite: str) -> dict[str, str]:
    """Names and versions of all packages of the image, resolved against the archive (needs 5 s).

    mmdebstrap makes an empty root and asks apt in it to simulate the installation, so the host's own
    packages and sources play no part. Raises BuildError where the archive cannot be reached.
    """
    names = " ".join(f"'{name}'" for name in (*wanted(architecture), "?essential", "apt"))
    hook = (
        'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -s -o APT::Install-Recommends=false '
        f"-o APT::Architecture={architecture} install {names}"
    )
    argv = ["mmdebstrap", f"--mode={mode()}", "--variant=custom", "--format=null"]
    argv += [
        f"--architectures={architecture}",
        "--skip=check/qemu",
        f"--customize-hook={hook}",
        suite,
        "/dev/null",
    ]
    found = dict(_INST.findall(run(argv, timeout=120)))
    if "docker.io" not in found:
        raise BuildError("the package archive did not name a docker.io")
    return dict(sorted(found.items()))


def bootstrap(architecture: str, suite: str, target: Path) -> None:
    """Debian's packages as a tar archive (50 s with a near mirror)."""
    argv: list[str | Path] = [
        "mmdebstrap",
        f"--mode={mode()}",
        "--variant=apt",
        f"--architectures={architecture}",
    ]
    argv.append(f"--include={','.join(wanted(architecture))}")
    argv.append('--aptopt=APT::Install-Recommends "false"')
    for excluded in ("man", "doc", "locale", "info"):
        argv.append(f"--dpkgopt=path-exclude=/usr/share/{excluded}/*")
    # Licences stay in the image; changelogs give it its version.
    for included in ("copyright", "changelog.gz", "changelog.Debian*"):
        argv.append(f"--dpkgopt=path-include=/usr/share/doc/*/{included}")
    # INITRD=No: the distribution's initrd is never used, and making it takes ten seconds.
    run([*argv, suite, target], env={**os.environ, "INITRD": "No"})
