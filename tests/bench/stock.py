"""The yardstick: Debian's cloud-image way of a guest (systemd, stock initramfs, ext4) with the same engine.

Built here from the same archive, kept in the user's cache under the hash of what it is made of, booted as
its vendor would: no trimming, QEMU's defaults for the same number of processors and the same memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.world import CPUS, MEMORY
from tests.support.caches import cache_folder
from tests.support.commands import Process, run, start
from tests.support.homes import wait_until

PACKAGES = (
    "ca-certificates,containerd,dbus,docker-buildx,docker-cli,docker-compose,docker.io,e2fsprogs,"
    "initramfs-tools,iproute2,iptables,kmod,linux-image-amd64,openssh-server,python3,systemd-resolved,"
    "systemd-sysv,tini,udev"
)
SIZE = "8G"
PORT = 2375  # of the engine in the guest, for its forward on the host's loopback
BUILD_TIMEOUT, START_TIMEOUT, STOP_TIMEOUT = 900.0, 300.0, 120.0
PING_TIMEOUT = 1.0
NETWORK = "[Match]\nName=en*\n[Network]\nDHCP=yes\n"
ENGINE = (
    "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H unix:///run/docker.sock -H tcp://0.0.0.0:2375\n"
)
HOOK = f"""
set -e
root="$1"
mkdir -p "$root/etc/systemd/network" "$root/etc/systemd/system/docker.service.d"
printf '{NETWORK}' > "$root/etc/systemd/network/10-all.network"
printf '{ENGINE}' > "$root/etc/systemd/system/docker.service.d/tcp.conf"
chroot "$root" systemctl enable systemd-networkd systemd-resolved docker containerd ssh
chroot "$root" passwd -d root
echo '/dev/vda / ext4 defaults 0 1' > "$root/etc/fstab"
echo stock > "$root/etc/hostname"
"""
_PORT = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+2375\s")


def build(say: Callable[[str], None]) -> Path:
    """The folder with `disk.qcow2`, `kernel` and `initrd`."""
    cache = cache_folder("bench")
    cache.mkdir(parents=True, exist_ok=True)
    done = cache / hashlib.sha256(f"{PACKAGES}{SIZE}{HOOK}".encode()).hexdigest()[:24]
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            say("building the stock guest")
            work = cache / ".build"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            _assemble(work)
            work.rename(done)
        for other in cache.iterdir():
            if other.is_dir() and other != done:
                shutil.rmtree(other)
    return done


def _assemble(work: Path) -> None:
    root, hook = work / "root", work / "hook"
    hook.write_text(f"#!/bin/sh{HOOK}")
    hook.chmod(0o755)
    argv = ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", f"--customize-hook={hook}"]
    run([*argv, "trixie", str(root)], timeout=BUILD_TIMEOUT).check()
    for name, pattern in (("kernel", "vmlinuz-*"), ("initrd", "initrd.img-*")):
        shutil.copyfile(next(root.glob(f"boot/{pattern}")), work / name)
    raw = work / "disk.raw"
    run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(raw), SIZE], timeout=BUILD_TIMEOUT).check()
    convert = ["qemu-img", "convert", "-O", "qcow2", str(raw), str(work / "disk.qcow2")]
    run(convert, timeout=BUILD_TIMEOUT).check()
    raw.unlink()
    shutil.rmtree(root)


class StockGuest:
    """One disk of the bench's own, booted as often as `boot` is called; its first boot is not a fair one."""

    def __init__(self, built: Path, folder: Path, docker: Path, accelerator: str) -> None:
        self._built = built
        self._disk = folder / "stock.qcow2"
        self._told = folder / "stock-monitor.log"
        self._console = folder / "stock-console.log"
        self._docker = str(docker)
        self._accelerator = accelerator
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(built / "disk.qcow2")]
        run([*argv, str(self._disk)], timeout=60).check()

    def _command(self) -> list[str]:
        emulated = self._accelerator == "tcg"
        kernel = ["-kernel", str(self._built / "kernel"), "-initrd", str(self._built / "initrd")]
        return [
            "qemu-system-x86_64",
            *("-machine", "q35", "-accel", "tcg,thread=single" if emulated else self._accelerator),
            *("-cpu", "max" if emulated else "host", "-smp", str(CPUS), "-m", f"{MEMORY}M"),
            *("-display", "none", "-nodefaults", *kernel),
            *("-append", "root=/dev/vda rw quiet console=ttyS0"),
            *("-drive", f"file={self._disk},if=virtio,format=qcow2"),
            *("-netdev", f"user,id=net0,hostfwd=tcp:127.0.0.1:0-:{PORT}"),
            *("-device", "virtio-net-pci,netdev=net0", "-device", "virtio-rng-pci"),
            *("-serial", f"file:{self._console}", "-monitor", "stdio"),
        ]

    def boot(self) -> float:
        """Seconds from QEMU's start to an answered `docker version`; the guest is then powered off."""
        began = time.perf_counter()
        with (
            self._told.open("w+b") as told,
            start(self._command(), stdin=subprocess.PIPE, stdout=told, stderr=told) as qemu,
        ):
            port = wait_until(lambda: self._port(qemu), 20, "the stock guest's forward is there")
            wait_until(lambda: _answers(port), START_TIMEOUT, "the stock guest's engine answers")
            environ = {**os.environ, "DOCKER_HOST": f"tcp://127.0.0.1:{port}", "DOCKER_CONTEXT": ""}
            run([self._docker, "version"], timeout=60, env=environ).check()
            taken = time.perf_counter() - began
            _tell(qemu, "system_powerdown")
            qemu.wait(STOP_TIMEOUT)
        return taken

    def _port(self, qemu: Process) -> int | None:
        """What QEMU chose for the forward."""
        _tell(qemu, "info usernet")
        found = _PORT.search(self._told.read_text(errors="replace"))
        return int(found[1]) if found else None


def _answers(port: int) -> bool:
    """Asked briefly and often: the user network takes a connection long before the guest does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PING_TIMEOUT)
    try:
        connection.request("GET", "/_ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tell(qemu: Process, command: str) -> None:
    assert qemu.stdin is not None
    qemu.stdin.write(command.encode() + b"\n")
    qemu.stdin.flush()
