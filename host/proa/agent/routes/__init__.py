"""The agent's routes, one module a family; `proa.agent.server` puts them together."""
