"""The one exception that carries a problem to the user.

Stdlib only and small: the `proa docker` path imports it.
"""

from __future__ import annotations


class ProaError(Exception):
    """Something failed, said so that a person can act on it.

    code:    a stable, lower-case, dashed word for scripts (`port-taken`)
    message: what failed, one line, no full stop
    why:     the reason, one line, may be empty
    hint:    the way out, one line, may be empty
    layer:   `hypervisor`, `kernel`, `guest-agent`, `containerd`, `engine`, `network`, or empty
    log:     the last lines of the log that belongs to the layer
    usage:   the input was wrong (exit status 2, HTTP 400), not the world (1)
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        why: str = "",
        hint: str = "",
        layer: str = "",
        log: tuple[str, ...] = (),
        usage: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.why = why
        self.hint = hint
        self.layer = layer
        self.log = log
        self.usage = usage

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]" + (f": {self.why}" if self.why else "")

    @property
    def lines(self) -> tuple[str, ...]:
        """At most three lines: what failed with its code, why, the way out."""
        what = f"proa: {self.message} [{self.code}]"
        return tuple(_one_line(part) for part in (what, self.why, self.hint) if part)


def _one_line(text: str) -> str:
    """What came from a log, a name or a guest stays on its line and moves no cursor."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text.strip())
