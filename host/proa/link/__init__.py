"""Streams to the guest: proved, parked, and taken into use without a round trip."""
