"""The agent: one process per user that owns sockets, ports and health. `agent` is the composition root."""
