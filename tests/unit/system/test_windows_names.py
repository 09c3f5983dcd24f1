"""Names as Windows keeps them: every name of the guest's comes back, or is refused."""

from __future__ import annotations

import errno
import random

import pytest

from proa.system.windows_names import (
    decode,
    encode,
    path_to_guest,
    path_to_windows,
    to_guest,
    to_windows,
)


@pytest.mark.parametrize(
    ("guest", "windows"),
    [
        (b"plain.txt", "plain.txt"),
        (b"a:b", "a\uf03ab"),
        (b'<>"|?*\\', "\uf03c\uf03e\uf022\uf07c\uf03f\uf02a\uf05c"),
        (b"\x01\n\x1f", "\uf001\uf00a\uf01f"),
        (b"dot.", "dot\uf02e"),
        (b"dots...", "dots..\uf02e"),
        (b" space ", " space\uf020"),
        (b"a.b c", "a.b c"),
        ("ä€𝄞".encode(), "ä€𝄞"),
        (b"\xff\xc3", "\udcff\udcc3"),
        (b".hidden", ".hidden"),
        (b"..", ".\uf02e"),  # never the folder above
    ],
)
def test_names_come_back(guest: bytes, windows: str) -> None:
    assert to_windows(guest) == windows
    assert to_guest(windows) == guest


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (b"", errno.EINVAL),
        (b"a/b", errno.EINVAL),
        (b"a\0b", errno.EINVAL),
        (b"x" * 256, errno.ENAMETOOLONG),
        ("𝄞".encode() * 128, errno.ENAMETOOLONG),  # of two units each
        ("a\uf03ab".encode(), errno.EINVAL),  # would come back as a:b
        ("a\uf02e".encode(), errno.EINVAL),
    ],
)
def test_what_cannot_be_kept(name: bytes, error: int) -> None:
    with pytest.raises(OSError) as refused:
        to_windows(name)
    assert refused.value.errno == error


def test_the_longest_names() -> None:
    assert len(to_windows(b"x" * 255)) == 255
    assert len(encode(to_windows("𝄞".encode() * 127))) == 508


def test_half_a_pair_is_shown() -> None:
    """A name that only a program of Windows can have made."""
    assert to_guest("a\ud800b") == b"a\xed\xa0\x80b"


def test_any_name_comes_back_or_is_refused() -> None:
    chance = random.Random(1)
    alphabet = [
        b".",
        b" ",
        b":",
        b"a",
        b"\\",
        b"\xff",
        b"\xed\xa0\x80",
        b"\xed\xb2\x80",
        "\uf03a".encode(),
        b"\xc3",
    ]
    for _ in range(5000):
        name = b"".join(chance.choices(alphabet, k=chance.randint(1, 6)))
        try:
            kept = to_windows(name)
        except OSError as error:
            assert error.errno == errno.EINVAL and b"\xef\x80" in name
            continue
        assert to_guest(decode(encode(kept))) == name
        assert not set(kept) & set('<>:"|?*\\/') and kept[-1] not in ". "


def test_paths() -> None:
    assert path_to_windows(b"/c/Users/me") == "C:\\Users\\me"
    assert path_to_windows(b"/d") == "D:\\"
    assert path_to_windows(b"/c/a:b") == "C:\\a\uf03ab"
    assert path_to_guest("C:\\Users\\me") == b"/c/Users/me"
    assert path_to_guest("D:\\") == b"/d"
    for path in (b"/", b"", b"c/x", b"/cc/x", b"/1/x", b"/\xff/x"):
        with pytest.raises(OSError) as refused:
            path_to_windows(path)
        assert refused.value.errno == errno.ENOENT
