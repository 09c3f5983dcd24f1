"""docker-credential-proa: hands each question of Docker's to the host whose user runs the command.

Docker's protocol for such helpers: the action is the first argument, its input comes on stdin, the answer
goes to stdout, an error as well, with exit status 1 (docker/docker-credential-helpers, "Development").
"""

from __future__ import annotations

import json
import os
import socket
import sys

MOST = 64 << 10  # bytes of an input; an access token of a cloud is some 4 KiB


def main() -> int:
    """One question; the exit status."""
    action = sys.argv[1] if len(sys.argv) > 1 else ""
    question = {"action": action, "input": sys.stdin.read(MOST)}
    try:
        with socket.socket(socket.AF_UNIX) as host:
            host.connect(os.path.join(os.environ["PROA_CALL"], "credentials.sock"))  # noqa: PTH118
            host.sendall(json.dumps(question).encode())
            host.shutdown(socket.SHUT_WR)
            answer = json.loads(b"".join(iter(lambda: host.recv(1 << 16), b"")))
        sys.stdout.write(str(answer["output"]))
        return int(answer["status"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.stdout.write(f"this computer's credentials cannot be asked for: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
