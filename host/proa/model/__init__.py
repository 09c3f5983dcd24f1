"""Plain data: machine config, states, problems, events. A leaf: imports nothing of Proa's."""
