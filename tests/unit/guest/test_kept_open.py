"""Which handles of the host's are kept, for whom, and which are given back."""

from __future__ import annotations

from proa_guest.kept_open import MOST, KeptOpen


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
