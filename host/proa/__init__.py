"""Proa: a desktop runtime for Docker containers."""

__version__ = "0.1.0"
