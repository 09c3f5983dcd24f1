"""The guest's own Docker engine as processes of this host: a fast reference for what stands in front of it.

Its root is the built image's, in namespaces of its own (mounts, network, pids, cgroups, names), so that the
end of its first process is the end of all. It reaches no network; images come in through its socket.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import debian_images
from tests.support.caches import cache_folder, guest_image
from tests.support.commands import run

START_TIMEOUT = 120.0  # seconds: it takes 2 on a quiet machine
CGROUPS = Path("/sys/fs/cgroup")
CONTAINERD = "/run/containerd/containerd.sock"

# The namespaces' first process. $1: the folder, $2: the image's root, $3: the cgroup controllers.
_INIT = r"""
set -eu
mount --make-rprivate /
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount --rbind /dev dev
mount -t mqueue mqueue dev/mqueue 2>/dev/null || true
mount --bind "$1/run" run
mount --bind "$1/data" var/lib/docker
mkdir -p var/lib/containerd && mkdir -p "$1/containerd" && mount --bind "$1/containerd" var/lib/containerd
mount -t tmpfs tmpfs tmp
mount -t tmpfs tmpfs sys/fs/cgroup
for controller in $3; do
    mkdir "sys/fs/cgroup/$controller"
    if [ "$controller" = unified ]; then
        mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
    elif [ "$controller" = systemd ]; then
        mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
    else
        mount -t cgroup -o "$controller" cgroup "sys/fs/cgroup/$controller"
    fi
done
mkdir -p etc/docker
echo '{}' >etc/docker/daemon.json
mkdir -p mnt/old
pivot_root . mnt/old
cd /
umount -l /mnt/old
mount --make-rshared /
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
hostname native
# Where a guest has the host's folders; here they are the same ones.
mkdir -p run/proa && ln -sfn / run/proa/host
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
containerd >/run/containerd.log 2>&1 &
for _ in $(seq 600); do [ -S /run/containerd/containerd.sock ] && break; sleep 0.1; done
dockerd --containerd=/run/containerd/containerd.sock --host=unix:///run/docker.sock >/run/dockerd.log 2>&1 &
while wait; do sleep 3600 & done
"""


@dataclass(frozen=True)
class NativeEngine:
    """`socket` is the engine's own; `docker` is the program of the same release, with its plugins."""

    socket: Path
    folder: Path
    docker: Path
    pid: int  # of the namespaces' first process, as this host sees it

    def environ(self, socket: Path | None = None) -> dict[str, str]:
        """For a client of the engine, straight or through another socket."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("DOCKER_", "PROA_"))}
        return {
            **kept,
            "DOCKER_HOST": f"unix://{socket or self.socket}",
            "DOCKER_CONFIG": str(self.folder / "config"),
        }

    def load(self, repository: str) -> None:
        """Put one of the test images in, under the name that Docker Hub's would have."""
        archive = self.folder / f"{secrets.token_hex(4)}.tar"
        debian_images.save(repository, archive, print)
        run([str(self.docker), "load", "-i", str(archive)], timeout=120, env=self.environ()).check()
        archive.unlink()


@contextlib.contextmanager
def native_engine(folder: Path | None = None) -> Iterator[NativeEngine]:
    """An engine with empty data; ended, with all its containers, and removed with the block."""
    image = guest_image()
    lower = _root_of(image)
    folder = folder or Path("/tmp") / f"proa-engine-{secrets.token_hex(4)}"
    for name in ("upper", "work", "root", "run", "data", "config/cli-plugins"):
        (folder / name).mkdir(parents=True)
    for plugin in (image / "cli/cli-plugins").iterdir():
        (folder / "config/cli-plugins" / plugin.name).symlink_to(plugin)
    cgroup = folder.name
    controllers = _make_cgroups(cgroup)
    process = subprocess.Popen(
        _argv(folder, lower, cgroup, controllers),
        stdin=subprocess.DEVNULL,
        stdout=(folder / "init.log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield _wait(process, folder, image / "cli/docker")
    finally:
        process.kill()  # unshare, which takes the first process along, and the kernel all the others
        process.wait()
        _remove_cgroups(cgroup, controllers)
        shutil.rmtree(folder, ignore_errors=True)


def _argv(folder: Path, lower: Path, cgroup: str, controllers: list[str]) -> list[str]:
    join = "".join(f"echo $$ >{CGROUPS / controller / cgroup}/cgroup.procs; " for controller in controllers)
    kinds = ["--mount", "--net", "--pid", "--cgroup", "--ipc", "--uts"]
    words = ["unshare", *kinds, "--fork", "--kill-child=KILL", "sh", "-c", _INIT, "init"]
    return ["sh", "-c", f'{join}exec "$@"', "join", *words, str(folder), str(lower), " ".join(controllers)]


def _wait(process: subprocess.Popen[bytes], folder: Path, docker: Path) -> NativeEngine:
    engine = NativeEngine(folder / "run/docker.sock", folder, docker, process.pid)
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        done = subprocess.run(
            [str(docker), "version"], env=engine.environ(), capture_output=True, timeout=30, check=False
        )
        if done.returncode == 0:
            return engine
        assert process.poll() is None and time.monotonic() < deadline, engine_log(folder)
        time.sleep(0.1)


def engine_log(folder: Path) -> str:
    """The ends of all its logs, for a failure's report."""
    logs = [folder / "init.log", *sorted((folder / "run").glob("*.log"))]
    return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in logs)


def _root_of(image: Path) -> Path:
    """The image's root, unpacked once and kept by the image's id (its folder's name)."""
    kept = cache_folder("roots") / image.name
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(f".{kept.name}.{secrets.token_hex(4)}")
        run(["fsck.erofs", f"--extract={partial}", str(image / "root.erofs")], timeout=300).check()
        with contextlib.suppress(OSError):  # another test's process may have been faster
            partial.rename(kept)
        shutil.rmtree(partial, ignore_errors=True)
    return kept


def _make_cgroups(name: str) -> list[str]:
    """A cgroup of its own below every mounted controller; their names."""
    made = []
    for controller in sorted(entry.name for entry in CGROUPS.iterdir() if (entry / "cgroup.procs").exists()):
        group = CGROUPS / controller / name
        group.mkdir()
        for key in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group of version 1
            if controller == "cpuset":
                (group / key).write_text((group.parent / key).read_text())
        made.append(controller)
    return made


def _remove_cgroups(name: str, controllers: list[str]) -> None:
    for controller in controllers:
        root = CGROUPS / controller / name
        deadline = time.monotonic() + 20
        while root.exists() and time.monotonic() < deadline:
            for group in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
                with contextlib.suppress(OSError):
                    group.rmdir()
            try:
                root.rmdir()
            except OSError:
                time.sleep(0.1)  # its last processes are still ending
