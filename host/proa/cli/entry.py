"""The console script. `proa docker …` and `proa status` leave from here at once; other verbs need click."""

from __future__ import annotations

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
        from proa.cli.main import run

        sys.exit(run(argv))
    except KeyboardInterrupt:
        sys.exit(130)


def _status(argv: list[str]) -> bool:
    """True where it is done."""
    from proa.cli.quick import status

    told = status(argv, os.environ)
    if told is not None:
        print(told)
    return told is not None


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
