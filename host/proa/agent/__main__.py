"""`python -m proa.agent [--start NAME]`: the agent in the foreground, for a command about to start NAME."""

from __future__ import annotations

import sys

from proa.agent.main import main

sys.exit(main(sys.argv[2] if sys.argv[1:2] == ["--start"] and len(sys.argv) == 3 else ""))
