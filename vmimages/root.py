"""The guest's root: Debian's packages, trimmed, with Proa's init and agent, as an erofs image."""

from __future__ import annotations

import lzma
import os
import shutil
from pathlib import Path

import welcome
from modules import Modules
from packages import EPOCH
from recipe import BOOT_MODULES, LEFT_OUT, MORE_MODULES
from run import BuildError, run

HERE = Path(__file__).resolve().parent
GUEST = HERE.parent / "guest" / "proa_guest"
_INIT = """\
#!/bin/sh
exec </dev/console >/dev/console 2>&1
exec /usr/bin/python3 -sSE -c 'import sys; sys.path.append("/usr/lib/proa/python")
from proa_guest.init import main
main()'
"""
# Docker's name for a credential helper: with it the guest's CLI asks the host's (proa_guest.credential).
_CREDENTIAL = """\
#!/bin/sh
exec /usr/bin/python3 -sSE -c 'import sys; sys.path.append("/usr/lib/proa/python")
from proa_guest.credential import main
sys.exit(main())' "$@"
"""
# dockerd runs this for each `docker version` and `docker info`. What it says is kept for this boot: to start
# runc is a third of the time that an emulated guest, just restored, needs for its first answer.
# The shell is the one that needs no loader, which would be a sixth of what is left.
_RUNC = """\
#!/usr/bin/busybox sh
[ "$*" = --version ] || exec /usr/sbin/runc "$@"
kept=/run/proa/runc-version
[ -s $kept ] || { /usr/sbin/runc --version >$kept.$$ && mv $kept.$$ $kept; } || exec /usr/sbin/runc --version
while IFS= read -r line; do printf '%s\\n' "$line"; done <$kept
"""
# Plugins that this guest has no use for: each is probed at every start of containerd.
_CONTAINERD = """\
version = 2
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.native",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]
"""


def installed(root: Path) -> dict[str, str]:
    """Names and versions of the packages that are in the root."""
    out = run(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package} ${Version}\\n"])
    return dict(sorted(line.split(" ", 1) for line in out.splitlines()))


def unpack(archive: Path, root: Path) -> None:
    root.mkdir()
    run(["tar", "-xf", archive, "-C", root, "--exclude=./dev/*"])


def kernel_of(root: Path) -> tuple[Path, Modules]:
    """The kernel's file and its modules."""
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise BuildError(f"the root has {len(kernels)} kernels, and one is wanted")
    version = kernels[0].name.removeprefix("vmlinuz-")
    return kernels[0], Modules(root / "usr/lib/modules" / version)


def trim_modules(modules: Modules, root: Path) -> None:
    """Keep what the recipe names, uncompressed: erofs compresses, and a boot does not wait for xz."""
    kept = set(modules.closure((*BOOT_MODULES, *MORE_MODULES)))
    for path in sorted(modules.folder.rglob("*.ko*")):
        if str(path.relative_to(modules.folder)) not in kept:
            path.unlink()
        elif path.suffix == ".xz":
            path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
            path.unlink()
    inside(root, "depmod", modules.version)
    for path in sorted(modules.folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def trim(root: Path) -> None:
    for pattern in LEFT_OUT:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def furnish(root: Path, architecture: str) -> None:
    """What is Proa's in the root: init, agent, settings, the welcome image."""
    home = root / "usr/lib/proa"
    shutil.copytree(GUEST, home / "python/proa_guest", ignore=shutil.ignore_patterns("__pycache__"))
    (home / "bin").mkdir()
    (home / "dockerd").mkdir()
    programs = (("init", _INIT), ("bin/docker-credential-proa", _CREDENTIAL), ("dockerd/runc", _RUNC))
    for name, text in programs:
        (home / name).write_text(text)
        (home / name).chmod(0o755)
    (home / "modules").write_text("\n".join(BOOT_MODULES) + "\n")
    (root / "etc/containerd").mkdir(exist_ok=True)
    (root / "etc/containerd/config.toml").write_text(_CONTAINERD)
    (root / "usr/share/proa").mkdir()
    busybox = (root / "usr/bin/busybox").read_bytes()
    (root / "usr/share/proa/welcome.tar").write_bytes(
        welcome.build(busybox, HERE / "welcome.html", architecture)
    )
    for folder in (
        "var/log",
        "var/cache",
        "var/lib/docker",
        "var/lib/containerd",
        "var/lib/proa",
        "var/lib/proa-data",
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for tables in ("iptables", "ip6tables"):
        link = root / f"etc/alternatives/{tables}"
        link.unlink(missing_ok=True)
        link.symlink_to(f"/usr/sbin/{tables}-legacy")
        for tool in ("save", "restore"):
            link = root / f"etc/alternatives/{tables}-{tool}"
            link.unlink(missing_ok=True)
            link.symlink_to(f"/usr/sbin/{tables}-legacy-{tool}")
    # The mounts make these; a machine's identity is made anew at every boot.
    for path in ("etc/resolv.conf", "etc/hostname", "etc/machine-id", "var/lib/dbus/machine-id"):
        (root / path).unlink(missing_ok=True)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    compile_python(root)


def compile_python(root: Path) -> None:
    """Compile every module: the root is read-only, and a boot should not compile."""
    for cache in root.rglob("__pycache__"):
        shutil.rmtree(cache)
    python = next(root.glob("usr/bin/python3.*"))
    library = f"/usr/lib/{python.name}"
    argv = [f"/usr/bin/{python.name}", "-sSE", "-m", "compileall", "-q"]
    argv += ["--invalidation-mode", "unchecked-hash", library, "/usr/lib/proa/python"]
    inside(root, *argv)


def inside(root: Path, *argv: str) -> None:
    """Run one of the root's own programs in it."""
    enter = ["chroot"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "chroot"]
    run([*enter, root, *argv])


def pack(root: Path, target: Path) -> None:
    """The root as erofs: lz4hc unpacks fastest, which under emulation is what counts."""
    argv = ["mkfs.erofs", "--quiet", "-zlz4hc,12", "-T", EPOCH, "-U", "00000000-0000-4000-8000-70726f610000"]
    run([*argv, "--all-root", target, root])
