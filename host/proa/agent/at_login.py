"""Whether the agent starts at login follows from the machines' settings: it does if one of them wants it."""

from __future__ import annotations

from proa.machine.store import MachineStore
from proa.model.errors import ProaError
from proa.model.machine import MachineConfig
from proa.system import login

KEY = "start_at_login"


def agree(store: MachineStore, changed: MachineConfig) -> None:
    """Make it so before `changed` is kept. Raises ProaError `login-refused`, `disk-full` …"""
    if changed.setting(KEY):
        login.enable()
    else:
        without(store, changed.name)


def without(store: MachineStore, name: str) -> None:
    """Make it so for the machines but `name`. Raises ProaError as `agree` does."""
    if not any(wants(store, other) for other in store.names() if other != name) and login.is_enabled():
        login.disable()


def wants(store: MachineStore, name: str) -> bool:
    """Whether that machine starts at login."""
    try:
        return bool(store.load(name).setting(KEY))
    except ProaError:
        return False  # `proa status` says what is wrong with its config
