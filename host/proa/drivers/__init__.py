"""Hypervisors, each behind the small interface of `proa.drivers.base`."""
