"""A problem as plain data: what `proa status --json` shows and the agent's API carries."""

from __future__ import annotations

import msgspec

from proa.model.errors import ProaError

LAYERS = ("agent", "hypervisor", "kernel", "guest-agent", "containerd", "engine", "network")


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """See ProaError for the fields' meanings."""

    code: str
    message: str
    why: str = ""
    hint: str = ""
    layer: str = ""
    log: tuple[str, ...] = ()
    usage: bool = False

    @classmethod
    def of(cls, error: ProaError) -> Problem:
        return cls(
            code=error.code,
            message=error.message,
            why=error.why,
            hint=error.hint,
            layer=error.layer,
            log=error.log,
            usage=error.usage,
        )

    def error(self) -> ProaError:
        return ProaError(
            self.code,
            self.message,
            why=self.why,
            hint=self.hint,
            layer=self.layer,
            log=self.log,
            usage=self.usage,
        )
