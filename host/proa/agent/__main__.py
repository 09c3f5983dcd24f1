"""`python -m proa.agent`: the agent in the foreground."""

from __future__ import annotations

import sys

from proa.agent.main import main

sys.exit(main())
