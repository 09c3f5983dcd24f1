"""The console script. `proa docker …` leaves from here at once; every other verb needs click."""

from __future__ import annotations

import sys

from proa.model.errors import ProaError


def main() -> None:
    """Run `proa` with the arguments of this process, and end it with the right exit status."""
    argv = sys.argv[1:]
    try:
        if argv[:1] == ["docker"] and argv[1:2] not in (["--help"], ["-h"]):
            sys.exit(_docker(argv[1:]))
        from proa.cli.main import run

        sys.exit(run(argv))
    except KeyboardInterrupt:
        sys.exit(130)


def _docker(argv: list[str]) -> int:
    """Become the Docker CLI; the exit status where that cannot be."""
    from proa.cli.docker import hand_over

    try:
        hand_over(argv)
    except ProaError as error:
        print(*error.lines, sep="\n", file=sys.stderr)
        return 2 if error.usage else 1


if __name__ == "__main__":
    main()
