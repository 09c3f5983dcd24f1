"""The console script. `proa docker …` leaves from here at once; every other verb needs click."""

from __future__ import annotations

import sys

from proa.model.errors import ProaError


def main() -> None:
    """Run `proa` with the arguments of this process, and end it with the right exit status."""
    argv = sys.argv[1:]
    try:
        if argv[:1] == ["docker"] and argv[1:2] not in (["--help"], ["-h"]):
            from proa.cli.docker import hand_over

            hand_over(argv[1:])
        from proa.cli.main import run

        sys.exit(run(argv))
    except ProaError as error:
        if argv[:1] == ["--debug"]:
            raise
        print(*error.lines, sep="\n", file=sys.stderr)
        sys.exit(2 if error.usage else 1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
