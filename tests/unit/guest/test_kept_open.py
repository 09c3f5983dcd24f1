"""Which handles of the host's are kept, for whom, and which are given back."""

from __future__ import annotations

from proa_guest.fuse import CLOSED_LATE
from proa_guest.kept_open import MOST, MOST_LATE, KeptOpen


def test_the_last_one_is_used_first_and_all_are_given_back() -> None:
    kept = KeptOpen()
    for handle in (1, 2, 3):
        kept.may_keep(10, handle)
    assert kept.open(10) is None, "all are in use"
    assert all(kept.close(10, handle, 5.0) for handle in (1, 2, 3))
    assert len(kept) == 3
    assert (kept.open(10), kept.open(10), len(kept)) == (3, 2, 1)
    assert not kept.close(11, 3, 5.0), "it is another file's"
    assert kept.close(10, 3, 6.0)
    kept.drop(10)
    assert (sorted(kept.gone()), kept.gone(), len(kept)) == ([1, 3], [], 0)
    assert not kept.close(10, 2, 7.0), "the file has changed since"


def test_they_are_bounded_and_the_oldest_go_first() -> None:
    kept = KeptOpen()
    for handle in range(MOST + 2):
        kept.may_keep(handle + 1000, handle)
        assert kept.close(handle + 1000, handle, float(handle))
    assert (len(kept), kept.gone()) == (MOST, [0, 1])
    kept.drop_since(10.0)
    assert kept.gone() == list(range(2, 11))
    assert kept.open(1002) is None and kept.open(1011) == 11


def test_one_that_was_used_again_is_not_old() -> None:
    kept = KeptOpen()
    kept.may_keep(10, 1)
    assert kept.close(10, 1, 5.0) and kept.open(10) == 1 and kept.close(10, 1, 9.0)
    kept.drop_since(8.0)
    assert kept.gone() == []
    kept.drop_all()
    assert kept.gone() == [1] and kept.open(10) is None


def test_written_files_are_told_of_together() -> None:
    kept = KeptOpen()
    assert not kept.close_late(5), "the host is told of that one at once"
    handles = [CLOSED_LATE | number for number in range(MOST_LATE)]
    assert all(map(kept.close_late, handles[:-1]))
    assert (kept.gone(), kept.late) == ([], MOST_LATE - 1)
    assert kept.close_late(handles[-1])
    assert (kept.gone(), kept.gone(all_of_them=True), kept.late) == (handles, [], 0)
    assert kept.close_late(handles[0])
    assert (kept.gone(), kept.gone(all_of_them=True)) == ([], handles[:1])


def test_they_go_along_with_what_cannot_wait() -> None:
    kept = KeptOpen()
    kept.may_keep(10, 1)
    assert kept.close(10, 1, 5.0) and kept.close_late(CLOSED_LATE | 2)
    kept.drop(10)
    assert kept.gone() == [1, CLOSED_LATE | 2]


def test_what_a_broken_stream_may_have_lost_is_told_once_more() -> None:
    kept = KeptOpen()
    for number in (1, 2):
        assert kept.close_late(CLOSED_LATE | number)
        kept.gone(all_of_them=True)
    assert kept.close_late(CLOSED_LATE | 3)
    kept.drop_all()
    told = [CLOSED_LATE | number for number in (1, 2, 3)]
    assert kept.gone() == told
    assert kept.gone(all_of_them=True) == []
    kept.drop_all()
    assert kept.gone() == told, "each once, however often it breaks"
