"""Where everything of Proa's lies on disk: the one module that names its files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from proa.system.files import make_private_folder, write_atomic
from proa.system.roots import check_socket, engine_socket, home_folder, run_folder

OURS = ".proa"  # in every folder that Proa itself made: what may be removed with all that is in it


def mark_ours(folder: Path) -> None:
    """Say that Proa made this folder, so that `proa reset` may remove it. Raises ProaError."""
    write_atomic(folder / OURS, b"made by Proa; proa reset removes this folder\n")


@dataclass(frozen=True)
class MachinePaths:
    """The files of one machine: what must last in `folder`, what a reboot may take in `runtime`."""

    name: str
    folder: Path
    runtime: Path
    logs: Path

    @property
    def config(self) -> Path:
        return self.folder / "machine.toml"

    @property
    def state(self) -> Path:
        return self.folder / "state.json"

    @property
    def data_disk(self) -> Path:
        return self.folder / "data.qcow2"

    @property
    def booted_image(self) -> Path:
        """The id of the guest image that it was booted with last."""
        return self.folder / "image"

    @property
    def lock(self) -> Path:
        """Held by the hypervisor for as long as it lives."""
        return self.folder / "lock"

    @property
    def shares(self) -> Path:
        """What the guest's mount counts on, while no share server runs (proa.shares.state)."""
        return self.folder / "shares" / "state.json"  # a folder of its own: all that the server may write

    @property
    def shares_log(self) -> Path:
        return self.logs / f"{self.name}-shares.log"

    @property
    def console_log(self) -> Path:
        return self.logs / f"{self.name}-console.log"

    def kept_log(self, source: str) -> Path:
        """What was kept of a log in the guest (`engine`, `containerd`, `guest`) when the machine ended."""
        return self.logs / f"{self.name}-{source}.log"

    @property
    def hypervisor_log(self) -> Path:
        return self.runtime / "qemu.log"

    @property
    def engine_socket(self) -> Path:
        return Path(engine_socket(str(self.runtime.parent), self.name))

    @property
    def guest_config(self) -> Path:
        return self.runtime / "guest.json"

    @property
    def link_key(self) -> Path:
        return self.runtime / "link.key"


@dataclass(frozen=True)
class Places:
    """The folders of one installation. `home` is PROA_HOME where it is set."""

    home: Path | None
    data: Path
    cache: Path
    run: Path
    logs: Path

    @classmethod
    def current(cls, environ: Mapping[str, str] | None = None) -> Places:
        """The places that PROA_HOME or the system's own rules name. Raises ProaError `bad-home`."""
        environ = os.environ if environ is None else environ
        run = Path(run_folder(environ))
        if chosen := home_folder(environ):
            home = Path(chosen)
            return cls(home=home, data=home, cache=home / "cache", run=run, logs=home / "logs")
        import platformdirs

        dirs = platformdirs.PlatformDirs("proa", appauthor=False)
        return cls(
            home=None,
            data=dirs.user_data_path,
            cache=dirs.user_cache_path,
            run=run,
            logs=dirs.user_log_path,
        )

    def make(self) -> None:
        """Make every folder, private to the user. Raises ProaError `folder-not-private` …"""
        # Without PROA_HOME the runtime folder may lie below /tmp, where its parent must be ours as well.
        first = self.run.parent if self.home is None else self.home
        data = (self.data, self.images, self.keys, self.machines)
        for folder in (first, *data, self.cache, self.run, self.logs):
            new = not folder.exists()
            make_private_folder(folder)
            if new:
                mark_ours(folder)

    @property
    def images(self) -> Path:
        return self.data / "images"

    @property
    def keys(self) -> Path:
        """Keys that guest images are signed with, and those that are trusted (proa.images.keys)."""
        return self.data / "keys"

    @property
    def downloads(self) -> Path:
        """Images that are half fetched: what may be lost."""
        return self.cache / "downloads"

    @property
    def machines(self) -> Path:
        return self.data / "machines"

    @property
    def agent_socket(self) -> Path:
        return Path(check_socket(str(self.run / "agent.sock")))

    @property
    def agent_lock(self) -> Path:
        """Held by the one agent of this installation; its first line is the agent's pid."""
        return self.run / "agent.lock"

    @property
    def agent_log(self) -> Path:
        return self.logs / "agent.log"

    @property
    def events(self) -> Path:
        return self.logs / "events.jsonl"

    @property
    def acceleration(self) -> Path:
        return self.cache / "acceleration.json"

    def machine(self, name: str) -> MachinePaths:
        """Paths for a checked name (proa.model.names.check_name)."""
        return MachinePaths(name=name, folder=self.machines / name, runtime=self.run / name, logs=self.logs)
