"""What process 1 says before it knows better."""

from __future__ import annotations

from proa_guest.init import Init


def test_a_disk_that_is_still_being_checked_is_not_called_missing() -> None:
    """A journal that is replayed takes its time, and the host gives a machine without a disk up at once."""
    init = Init()
    assert (init.disk["state"], init.network["state"]) == ("starting", "starting")
