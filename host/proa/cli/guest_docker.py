"""`proa docker` where this host can run no Docker CLI: the guest's, in the current folder.

The guest is given the user's environment and Docker settings for the one call, and no logins: for those its
CLI asks, and `proa.cli.credentials` answers for as long as the command runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from proa.agent.client import ensure_agent
from proa.cli.credentials import Credentials, for_guest
from proa.cli.session import Session, raw_terminal, window
from proa.model.api import DockerRequest
from proa.model.errors import ProaError
from proa.system.docker_settings import DockerSettings, docker_folder
from proa.system.paths import Places

BROKEN_PIPE = 128 + 13  # as a shell tells of a program that SIGPIPE ended
_PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")


def run_docker(name: str, argv: list[str]) -> int:
    """Run the guest's Docker CLI; its exit status. Raises ProaError."""
    folder = docker_folder(os.environ)
    may_change = not {"login", "logout"}.isdisjoint(argv)
    credentials = Credentials(folder, dict(os.environ), may_change=may_change)

    def answer(question: bytes) -> bytes:
        content = json.loads(question)
        status, output = credentials.answer(str(content.get("action")), str(content.get("input")))
        return json.dumps({"id": content.get("id"), "status": status, "output": output}).encode()

    request = request_of(argv, folder)
    signals = [getattr(signal, signame) for signame in _PASSED_ON if hasattr(signal, signame)]
    with (
        ensure_agent(Places.current()) as client,
        contextlib.closing(client.docker(name, request)) as connection,
        raw_terminal() if request.terminals[0] else contextlib.nullcontext(),
    ):
        session = Session(connection, resizes=any(request.terminals), signals=signals, answer=answer)
        try:
            return session.run()
        except BrokenPipeError:
            # Who read what this wrote is gone. What is still held for it must not be written at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return BROKEN_PIPE


def request_of(argv: list[str], folder: Path) -> DockerRequest:
    """What the guest is told; `folder` is the user's Docker folder. Raises ProaError."""
    cwd = _folder()
    for word in (*argv, cwd):
        if not _is_text(word):
            raise ProaError(
                "bad-usage", f"this is no text: {os.fsencode(word)!r}", hint="write it in UTF-8", usage=True
            )
    try:
        settings = for_guest(DockerSettings(folder).read())
    except ProaError as error:  # as Docker's own CLI does: it says so and goes on
        print(f"WARNING: {error.message}: {error.why}", file=sys.stderr)
        settings = {}
    shown = tuple(os.isatty(descriptor) for descriptor in range(3))
    rows, columns = window()
    return DockerRequest(
        argv=tuple(argv),
        cwd=cwd,
        home=str(Path.home()),
        environ={key: value for key, value in os.environ.items() if _is_text(key + value)},
        settings=settings,
        # Keys are the guest's only if what they do is shown here: else a pager may read them, say.
        terminals=(shown[0] and shown[1], shown[1], shown[2]),
        rows=rows,
        columns=columns,
    )


def _folder() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError as error:
        raise ProaError(
            "folder-gone", "the current folder is not there any more", hint="go to one that is, with cd"
        ) from error


def _is_text(word: str) -> bool:
    """False where it has bytes that are no UTF-8 (PEP 383)."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True
