"""Proa: a desktop runtime for Docker containers."""

__version__ = "0.1.0"
API_VERSION = 1  # of the agent's API (proa.model.api)
