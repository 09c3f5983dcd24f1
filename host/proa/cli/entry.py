"""The console script. `proa docker …` and `proa status` leave from here at once; other verbs need click."""

from __future__ import annotations

import contextlib
import os
import sys

from proa.model.errors import ProaError


def main() -> None:
    """Run `proa` with the arguments of this process, and end it with the right exit status."""
    argv = sys.argv[1:]
    try:
        if argv[:1] == ["docker"] and argv[1:2] not in (["--help"], ["-h"]):
            sys.exit(_docker(argv[1:]))
        if argv[:1] == ["status"] and _status(argv[1:]):
            return
        asked = None
        if argv[:1] == ["start"] and not {"--help", "-h"} & set(argv):
            asked = _begin_start(argv[1:])
        from proa.cli.main import run

        sys.exit(run(argv, asked))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has left; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)


def _status(argv: list[str]) -> bool:
    """True where it is done."""
    from proa.cli.quick import status

    told = status(argv, os.environ)
    if told is not None:
        print(told, flush=True)
    return told is not None


def _begin_start(argv: list[str]) -> int | None:
    """Let the agent begin while this process still imports the verb: with the start, or to run at all."""
    from proa.cli.quick import begin_start

    asked = begin_start(argv, os.environ)
    if asked is not None:
        return asked
    from proa.agent.spawn import hasten
    from proa.system.paths import Places

    with contextlib.suppress(ProaError):  # what is wrong is for the verb to say
        places = Places.current()
        if places.agent_log.parent.is_dir():
            hasten(places)
    return None


def _docker(argv: list[str]) -> int:
    """Become the Docker CLI; the exit status where that cannot be, or where the guest's has run."""
    from proa.cli.docker import hand_over

    try:
        return hand_over(argv)
    except ProaError as error:
        print(*error.lines, sep="\n", file=sys.stderr)
        return 2 if error.usage else 1


if __name__ == "__main__":
    main()
