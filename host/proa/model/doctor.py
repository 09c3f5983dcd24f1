"""What a check of `proa doctor` found; the shape of `proa doctor --json` (a list of these)."""

from __future__ import annotations

import enum

import msgspec

# In the order in which a person reads them: from this computer through the guest to the user's own tools.
AGENT_CHECKS = (
    "hypervisor",
    "acceleration",
    "image",
    "guest-agent",
    "engine",
    "clock",
    "names",
    "outward",
    "ports",
    "shares",
)
ORDER = ("agent", "disk", "memory", "socket", *AGENT_CHECKS, "docker-cli", "plugins", "context", "leftovers")


class CheckState(enum.StrEnum):
    OK = "ok"
    WARN = "warn"  # it works, and something is worth knowing
    FAIL = "fail"
    SKIP = "skip"  # it could not be looked at, or there is nothing to look at


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """`message` is one line that says what is; `hint` is the way out, empty where none is needed."""

    name: str
    state: CheckState
    message: str
    hint: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """What a judgement says of its facts; the check that asked gives it its name.

    `hint` empty: the check's own hint stands, where the state asks for one.
    """

    state: CheckState
    message: str
    hint: str = ""


def ok(message: str) -> Verdict:
    return Verdict(CheckState.OK, message)


def warn(message: str, hint: str = "") -> Verdict:
    return Verdict(CheckState.WARN, message, hint)


def fail(message: str, hint: str = "") -> Verdict:
    return Verdict(CheckState.FAIL, message, hint)


def skip(message: str, hint: str = "") -> Verdict:
    return Verdict(CheckState.SKIP, message, hint)


def named(name: str, verdict: Verdict, hint: str = "") -> CheckResult:
    """The verdict under its check's name; `hint` is the check's own, for a verdict that brings none."""
    needs_hint = verdict.state in (CheckState.WARN, CheckState.FAIL)
    return CheckResult(
        name=name,
        state=verdict.state,
        message=_line(verdict.message),
        hint=_line(verdict.hint or (hint if needs_hint else "")),
    )


def _line(text: str) -> str:
    """One line, whatever a guest, a log or an error put into it."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
