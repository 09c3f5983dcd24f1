"""What a machine remembers between agents; a disk that takes nothing does not hinder what is done."""

from __future__ import annotations

import logging

import msgspec

from proa.machine.store import MachineRecord, MachineStore
from proa.model.errors import ProaError

log = logging.getLogger("proa.machine")


class Memo:
    """One machine's record, on disk as far as the disk takes it."""

    def __init__(self, store: MachineStore, name: str) -> None:
        self._store = store
        self._name = name
        self.record: MachineRecord = store.record(name)

    def change(self, **changes: object) -> None:
        """Remember; a problem is forgotten unless it is among the changes."""
        self.record = msgspec.structs.replace(self.record, **{"problem": None, **changes})
        if not self._store.exists(self._name):
            return
        try:
            self._store.keep_record(self._name, self.record)
        except ProaError as error:
            log.warning("%s: %s", self._name, error)
