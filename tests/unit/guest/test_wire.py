"""The link's protocol as scripts of bytes, and fuzzed: any split gives the same, garbage WireError."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proa_guest import wire

SECRET = b"s" * 32


def handshake(
    host_secret: bytes = SECRET, guest_secret: bytes = SECRET
) -> tuple[wire.HostHandshake, wire.GuestHandshake]:
    host, guest = wire.HostHandshake(host_secret), wire.GuestHandshake(guest_secret)
    host.feed(guest.feed(host.feed(guest.hello())))
    return host, guest


def test_both_sides_prove_the_secret_which_never_crosses() -> None:
    host, guest = wire.HostHandshake(SECRET), wire.GuestHandshake(SECRET)
    said = [guest.hello()]
    said.append(host.feed(said[-1]))
    said.append(guest.feed(said[-1]))
    host.feed(said[-1])
    assert host.done and guest.done and host.version == guest.version == 1
    assert all(SECRET not in line and SECRET.hex().encode() not in line for line in said)


def test_another_secret_is_found_by_the_guest_first() -> None:
    with pytest.raises(wire.WireError, match="secret"):
        handshake(host_secret=b"x" * 32)


def test_a_guest_without_the_secret_is_found_by_the_host() -> None:
    host, guest = wire.HostHandshake(SECRET), wire.GuestHandshake(SECRET)
    host.feed(guest.hello())
    with pytest.raises(wire.WireError, match="secret"):
        host.feed(b"0" * 64 + b"\n")
    assert not host.done


def test_a_proof_is_of_no_use_to_the_other_side_or_at_another_time() -> None:
    host, guest = wire.HostHandshake(SECRET), wire.GuestHandshake(SECRET)
    answer = host.feed(guest.hello())
    with pytest.raises(wire.WireError):
        wire.GuestHandshake(SECRET).feed(answer)  # replayed to another connection
    with pytest.raises(wire.WireError):
        host.feed(answer.split(b" ")[3])  # the host's own proof, reflected


def test_a_guest_that_reflects_the_hosts_nonce_is_refused() -> None:
    host = wire.HostHandshake(SECRET)
    probe = host.feed(wire.GuestHandshake(SECRET).hello()).split(b" ")[2]
    other = wire.HostHandshake(SECRET)
    other._own = probe  # the same nonce, as an attacker would arrange it
    with pytest.raises(wire.WireError):
        other.feed(b"PROA 1-1 " + probe + b"\n")


@pytest.mark.parametrize("versions", [b"2-9", b"0-0", b"x-1", b"1", b"1-99999999", b"-", b"9-1"])
def test_versions_that_do_not_meet_are_refused(versions: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.HostHandshake(SECRET).feed(b"PROA " + versions + b" " + b"a" * 32 + b"\n")


def test_a_newer_guest_is_spoken_to_in_the_version_of_both() -> None:
    host = wire.HostHandshake(SECRET)
    assert host.feed(b"PROA 1-7 " + b"a" * 32 + b"\n").startswith(b"PROA 1 ")


@given(st.data())
def test_any_split_of_the_bytes_gives_the_same(data: st.DataObject) -> None:
    host, guest = wire.HostHandshake(SECRET), wire.GuestHandshake(SECRET)
    request = wire.request("engine")

    def fed(side: wire.HostHandshake | wire.GuestHandshake, text: bytes) -> bytes:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        return b"".join(side.feed(piece) for piece in pieces)

    answer = fed(host, guest.hello())
    head = data.draw(st.integers(0, len(answer) - 1))
    proof = fed(guest, answer[:head]) + guest.feed(answer[head:] + request)  # the host may send it along
    fed(host, proof)
    assert host.done and guest.done
    assert guest.rest == request


@given(st.binary(max_size=2000), st.integers(1, 50))
def test_garbage_raises_nothing_but_wire_errors(garbage: bytes, step: int) -> None:
    for feed in (
        wire.HostHandshake(SECRET).feed,
        wire.GuestHandshake(SECRET).feed,
        lambda data: list(wire.Messages().feed(data)),
        lambda data: list(wire.Frames().feed(data)),
        wire.read_request,
        wire.read_answer,
        wire.exit_status,
        lambda data: wire.tcp_target(data.decode("latin-1")),
    ):
        with contextlib.suppress(wire.WireError):
            for at in range(0, len(garbage), step):
                feed(garbage[at : at + step])


@pytest.mark.parametrize("side", [wire.HostHandshake, wire.GuestHandshake])
def test_a_line_without_an_end_is_not_held_for_ever(
    side: type[wire.HostHandshake | wire.GuestHandshake],
) -> None:
    with pytest.raises(wire.WireError, match="long"):
        side(SECRET).feed(b"P" * (wire.MAX_LINE + 2))


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("tcp:127.0.0.1:80", ("127.0.0.1", 80)),
        ("tcp:[::1]:8080", ("::1", 8080)),
        ("tcp:172.17.0.2:65535", ("172.17.0.2", 65535)),
    ],
)
def test_tcp_targets(target: str, found: tuple[str, int]) -> None:
    assert wire.tcp_target(target) == found


@pytest.mark.parametrize(
    "target",
    ["tcp:", "tcp:1.2.3.4", "tcp:1.2.3.4:0", "tcp:1.2.3.4:65536", "tcp::80", "udp:1.2.3.4:5", "tcp:a:٣"],
)
def test_what_is_no_tcp_target_is_refused(target: str) -> None:
    with pytest.raises(wire.WireError):
        wire.tcp_target(target)


def test_refusals_come_back_as_problems() -> None:
    line = wire.refusal("target-refused", "nobody there", "look").rstrip(b"\n")
    assert wire.read_answer(line) == {"code": "target-refused", "message": "nobody there", "hint": "look"}
    assert wire.read_answer(b"ok") is None


@given(st.lists(st.tuples(st.integers(wire.STDIN, wire.TAKEN), st.binary(max_size=300))), st.integers(1, 64))
def test_frames_come_out_as_they_went_in(frames: list[tuple[int, bytes]], step: int) -> None:
    stream = b"".join(wire.frame(kind, payload) for kind, payload in frames)
    taker = wire.Frames()
    found = [item for at in range(0, len(stream), step) for item in taker.feed(stream[at : at + step])]
    assert found == frames


def test_frames_and_messages_that_are_too_long_are_refused_before_they_are_held() -> None:
    with pytest.raises(wire.WireError):
        list(wire.Frames().feed((wire.MAX_FRAME + 1).to_bytes(4, "big") + b"\1"))
    with pytest.raises(wire.WireError):
        list(wire.Messages().feed((wire.MAX_MESSAGE + 1).to_bytes(4, "big")))
    with pytest.raises(wire.WireError):
        list(wire.Frames().feed(wire.frame(wire.TAKEN + 1)))
