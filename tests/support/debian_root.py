"""A clean Debian root to install a package into: nothing of this checkout, nothing of Python's packages."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.caches import cache_folder
from tests.support.commands import Result, run

BOOTSTRAP_TIMEOUT = 600.0  # seconds; 20 with a near mirror
USER = 1000
# /proc of the namespace's own processes, and of /dev only what a program may expect.
_INSIDE = """
mount -t proc none {root}/proc
mount -t tmpfs -o mode=1777 none {root}/dev/shm
mount -t tmpfs -o mode=1777 none {root}/tmp
for name in null zero full random urandom tty; do
	touch {root}/dev/$name
	mount --bind /dev/$name {root}/dev/$name
done
mkdir -p {root}/var/cache/apt/archives
mount --bind {archives} {root}/var/cache/apt/archives
exec chroot {root} "$@"
"""


class DebianRoot:
    """Commands run in it as root, or as a user without any rights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._archives = cache_folder("debian-archives")
        (self._archives / "partial").mkdir(parents=True, exist_ok=True)

    def run(self, *argv: str, timeout: float = 60, env: dict[str, str] | None = None) -> Result:
        script = "set -e" + _INSIDE.format(root=self.folder, archives=self._archives)
        inside = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", *argv]
        environ = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": "/root",
            **(env or {}),
        }
        return run(inside, timeout=timeout, env=environ)

    def as_user(self, script: str, *, timeout: float) -> Result:
        """A shell's script of a plain user; what it left running ends with it."""
        login = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
        return self.run(*login, "sh", "-eu", "-c", script, timeout=timeout, env={"HOME": "/home/user"})

    def apt(self, *words: str) -> Result:
        quiet = ["-y", "-qq", "-o", "APT::Install-Recommends=false", "-o", "APT::Sandbox::User=root"]
        # What is fetched stays, for the next run.
        keep = ["-o", "APT::Keep-Downloaded-Packages=true"]
        environ = {"DEBIAN_FRONTEND": "noninteractive"}
        return self.run("apt-get", *quiet, *keep, *words, timeout=BOOTSTRAP_TIMEOUT, env=environ)

    def files(self) -> set[str]:
        """All paths but what the system itself keeps of what was done to it."""
        own = ("/proc", "/dev", "/tmp", "/var/cache", "/var/log", "/var/lib/dpkg", "/var/lib/apt", "/home")
        prune = " -o ".join(f"-path '{self.folder}{path}/*'" for path in own)
        found = run(["sh", "-c", f"find {self.folder} \\( {prune} \\) -prune -o -print"], timeout=60)
        return {line.removeprefix(str(self.folder)) for line in found.check().out.splitlines()}


def release() -> str:
    """The code name of this host's Debian: a package built here fits that release's Python."""
    text = Path("/etc/os-release").read_text()
    key = "VERSION_CODENAME="
    return next(line for line in text.splitlines() if line.startswith(key)).removeprefix(key)


def _base(suite: str) -> Path:
    archive = cache_folder("debian-roots") / f"{suite}.tar"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        partial = archive.with_suffix(".partial.tar")
        argv = ["mmdebstrap", "--variant=apt", suite, str(partial)]
        run(argv, timeout=BOOTSTRAP_TIMEOUT, env={**os.environ}).check()
        partial.rename(archive)
    return archive


@contextmanager
def debian_root() -> Iterator[DebianRoot]:
    folder = Path("/tmp") / f"proa-root-{secrets.token_hex(3)}"
    folder.mkdir(mode=0o755)
    try:
        archive = _base(release())
        run(["tar", "-xpf", str(archive), "-C", str(folder)], timeout=120).check()
        shutil.copyfile("/etc/resolv.conf", folder / "etc/resolv.conf")
        (folder / "dev/shm").mkdir(parents=True, exist_ok=True)
        root = DebianRoot(folder)
        root.run("useradd", "--create-home", "--uid", str(USER), "user").check()
        yield root
    finally:
        shutil.rmtree(folder, ignore_errors=True)
