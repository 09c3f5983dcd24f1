"""Fetching from mirrors that truncate, alter, stall, lie, lead elsewhere, or serve what is old."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proa.images import archive
from proa.images.fetch import Fetch, Patience
from proa.images.keys import Keyring
from proa.images.store import Image, ImageStore
from proa.model.errors import ProaError
from tests.support.images import make_image
from tests.support.mirror import Answer, endless, good, head, mirror, raw, stalls

PATIENCE = Patience(window=1.0, least=1 << 10, tries=3, step=1 << 10, pause=0.01)


@dataclass
class World:
    folder: Path
    store: ImageStore
    said: list[tuple[str, float | None]] = field(default_factory=list)

    def made(self, identity: str = "abc123", version: str = "1.5") -> bytes:
        """An archive that this installation trusts."""
        maker = ImageStore(self.folder / "maker", Keyring(self.folder / "keys"))
        source = make_image(self.folder / f"built-{identity}", identity, version, size=100_000)
        image = maker.import_image(source, lambda _: None, built_here=True)
        maker.pack(image, self.folder / f"{identity}.tar")
        return (self.folder / f"{identity}.tar").read_bytes()

    async def fetch(self, url: str, *, older: bool = False, patience: Patience = PATIENCE) -> Image:
        fetch = Fetch(
            url,
            self.folder / "downloads",
            lambda data, signed: self.store.admit(data, signed, "mirror", older=older),
            lambda text, fraction: self.said.append((text, fraction)),
            patience,
        )
        async with asyncio.timeout(40):
            path = await fetch.run()
        try:
            return self.store.import_image(path, lambda _: None, older=older)
        finally:
            fetch.part.discard()

    async def refused(self, url: str) -> str:
        with pytest.raises(ProaError) as caught:
            await self.fetch(url)
        assert self.store.names() == (), "nothing is installed"
        return caught.value.code

    def kept(self) -> list[int]:
        return [path.stat().st_size for path in (self.folder / "downloads").glob("*.part")]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, ImageStore(tmp_path / "images", Keyring(tmp_path / "keys")))


async def test_it_comes_with_progress_and_leaves_no_download(world: World) -> None:
    async with mirror(good(world.made())) as server:
        image = await world.fetch(server.url())
    assert world.store.newest().id == image.id
    assert world.said[-1][1] == 1.0 and len(world.said) > 3
    assert list((world.folder / "downloads").iterdir()) == []


async def test_a_server_that_truncates_is_gone_on_with(world: World) -> None:
    data = world.made()
    async with mirror(good(data, cut=50_000), good(data, cut=300_000), good(data)) as server:
        await world.fetch(server.url())
    assert [asked.start for asked in server.asked] == [0, 50_000, 350_000]
    assert server.asked[1].headers["if-range"] == '"one"'
    assert server.asked[1].headers["accept-encoding"] == "identity"


async def test_a_later_run_goes_on_where_the_first_one_stopped(world: World) -> None:
    data = world.made()
    async with mirror(good(data, cut=200_000), good(data, cut=0)) as server:
        assert await world.refused(server.url()) == "fetch-incomplete"
        assert world.kept() == [200_000]
        server.answers[:] = [good(data)]
        await world.fetch(server.url())
        assert server.asked[-1].start == 200_000


async def test_a_file_that_changed_meanwhile_is_fetched_anew(world: World) -> None:
    old, new = world.made("old1"), world.made("new1", "1.6")
    async with mirror(good(old, cut=200_000), good(new, etag='"two"')) as server:
        assert (await world.fetch(server.url())).id == "new1"


async def test_without_a_validator_nothing_is_gone_on_with(world: World) -> None:
    data = world.made()
    plain = head("200 OK", Content_Length=len(data))
    weak = head("200 OK", Content_Length=len(data), ETag='W/"x"')
    async with mirror(raw(plain, data[:200_000]), raw(weak, data[:200_000]), raw(plain, data)) as server:
        await world.fetch(server.url())
    assert all("range" not in asked.headers for asked in server.asked)


async def test_a_range_that_cannot_be_is_begun_anew(world: World) -> None:
    data = world.made()
    async with mirror(good(data, cut=200_000), raw(head("416 No")), good(data)) as server:
        await world.fetch(server.url())
    assert [asked.start for asked in server.asked] == [0, 200_000, 0]


async def test_what_an_earlier_run_left_spoiled_is_begun_anew(world: World) -> None:
    data = world.made()
    async with mirror(good(data, cut=200_000), good(data, cut=0)) as server:
        await world.refused(server.url())
        (part,) = (world.folder / "downloads").glob("*.part")
        part.write_bytes(b"x" * 200_000)
        server.answers[:] = [good(data)]
        await world.fetch(server.url())
        assert server.asked[-1].start == 0


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


async def test_an_altered_byte_anywhere_is_never_installed(world: World) -> None:
    data = world.made()
    found = archive.read_head(data)
    assert found is not None
    for at in (0, 600, found.end - 600, found.end + 10, found.end + 5000, 350_000):
        async with mirror(good(_flip(data, at))) as server:
            assert await world.refused(server.url())
            assert world.kept() == []


async def test_a_part_of_another_file_is_caught_by_its_hash(world: World) -> None:
    data = world.made()
    other = data[:200_000] + bytes(len(data) - 200_000)
    async with mirror(good(data, cut=200_000), good(other)) as server:
        assert await world.refused(server.url()) in ("image-altered", "archive-wrong")
        assert world.kept() == []


LIES: dict[str, Callable[[bytes], Answer]] = {
    "another start": lambda data: raw(
        head("206 P", Content_Length=10, Content_Range=f"bytes 0-9/{len(data)}", ETag='"one"'), data[:10]
    ),
    "no range": lambda data: raw(head("206 P", ETag='"one"'), data),
    "nonsense": lambda data: raw(head("206 P", Content_Range="bytes x-y/z", ETag='"one"'), data),
    "another total": lambda data: raw(
        head("206 P", Content_Range=f"bytes 200000-{len(data) + 9}/{len(data) + 10}", ETag='"one"'),
        data[200_000:],
    ),
    "another version": lambda data: raw(
        head("206 P", Content_Range=f"bytes 200000-{len(data) - 1}/{len(data)}", ETag='"two"'),
        data[200_000:],
    ),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_server_that_lies_about_ranges(world: World, lie: str) -> None:
    data = world.made()
    async with mirror(good(data, cut=200_000), LIES[lie](data)) as server:
        assert await world.refused(server.url()) == "fetch-answer-wrong"
        assert world.kept() == []


async def test_a_part_that_nobody_asked_for(world: World) -> None:
    data = world.made()
    span = f"bytes 0-{len(data) - 1}/{len(data)}"
    async with mirror(raw(head("206 P", Content_Range=span), data)) as server:
        assert await world.refused(server.url()) == "fetch-answer-wrong"


@pytest.mark.parametrize("wrong", [-512, 512, 10 << 30])
async def test_a_wrong_length_is_refused_before_it_comes(world: World, wrong: int) -> None:
    data = world.made()
    said = head("200 OK", Content_Length=len(data) + wrong)
    async with mirror(raw(said, data[:150_000])) as server:
        assert await world.refused(server.url()) == "fetch-answer-wrong"


async def test_an_endless_body_is_taken_no_further_than_the_manifest_says(world: World) -> None:
    data = world.made()
    found = archive.read_head(data)
    assert found is not None
    async with mirror(endless(head("200 OK") + data[: found.end])) as server:
        assert await world.refused(server.url()) in ("archive-wrong", "fetch-answer-wrong")
    # And not even that before there is a manifest.
    for first in (b"", data[:512]):
        async with mirror(endless(head("200 OK") + first)) as server:
            assert await world.refused(server.url()) in ("archive-wrong", "image-signature-wrong")


async def test_a_manifest_that_claims_to_be_huge(world: World) -> None:
    block = bytearray(world.made()[:512])
    block[124:136] = b"77777777777\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    async with mirror(endless(head("200 OK") + bytes(block))) as server:
        assert await world.refused(server.url()) == "archive-wrong"


async def test_an_old_image_is_refused_before_its_files_come(world: World) -> None:
    new, old = world.made("new1", "1.6"), world.made("old1", "1.5")
    async with mirror(good(new)) as server:
        await world.fetch(server.url())
    async with mirror(good(old)) as server:
        with pytest.raises(ProaError) as caught:
            await world.fetch(server.url())
        assert caught.value.code == "image-older"
        assert world.store.names() == ("new1",)
        assert (await world.fetch(server.url(), older=True)).id == "old1"


async def test_a_stranger_s_image_is_refused(world: World, tmp_path: Path) -> None:
    stranger = World(tmp_path / "stranger", world.store)
    async with mirror(good(stranger.made())) as server:
        assert await world.refused(server.url()) == "image-signer-unknown"


async def test_an_unsigned_image_is_refused(world: World) -> None:
    data = world.made()
    found = archive.read_head(data)
    assert found is not None
    without = data[: 512 + len(found.manifest) + archive.padding(len(found.manifest))] + data[found.end :]
    async with mirror(good(without)) as server:
        assert await world.refused(server.url()) == "archive-wrong"


@pytest.mark.parametrize("have", [0, 150_000])
async def test_a_stalled_server_is_given_up_and_what_came_is_kept(world: World, have: int) -> None:
    data = world.made()
    said = head("200 OK", Content_Length=len(data), ETag='"one"')
    async with mirror(stalls(said + data[:have])) as server:
        assert await world.refused(server.url()) == "fetch-incomplete"
    assert world.kept() == [have]
    assert any("trying again" in text for text, _ in world.said)


async def test_a_server_that_says_nothing_at_all(world: World) -> None:
    async with mirror(stalls(b"")) as server:
        assert await world.refused(server.url()) == "fetch-incomplete"


async def test_a_server_that_drips_is_stalled_too(world: World) -> None:
    data = world.made()

    async def drip(asked: object, writer: asyncio.StreamWriter) -> None:
        writer.write(head("200 OK", Content_Length=len(data)))
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)

    async with mirror(drip) as server:
        assert await world.refused(server.url()) == "fetch-incomplete"


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "http://127.0.0.1:1/x",
        "https://127.0.0.1/x",
        "http://localhost/x",
        "http://example.com/x",
        "//example.com/x",
        "ftp://127.0.0.1/x",
        "http://[",
        "",
    ],
)
async def test_a_redirect_to_elsewhere_is_not_followed(world: World, target: str) -> None:
    async with mirror(raw(head("302 Found", Location=target))) as server:
        assert await world.refused(server.url()) == "fetch-redirected"
        assert len(server.asked) == 1


async def test_a_redirect_on_the_same_server_is_followed_but_not_for_ever(world: World) -> None:
    async with mirror(raw(head("301 Moved", Location="/there.tar")), good(world.made())) as server:
        await world.fetch(server.url())
        assert server.asked[1].path == "/there.tar"
    world.store.remove("abc123")
    async with mirror(raw(head("307 On", Location="/on"))) as server:
        assert await world.refused(server.url()) == "fetch-answer-wrong"
        assert len(server.asked) < 10


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (raw(head("404 No", Content_Length=0)), "fetch-refused"),
        (raw(head("401 No", Content_Length=0)), "fetch-refused"),
        (raw(head("204 Empty")), "fetch-refused"),
        (raw(head("503 Later", Content_Length=0)), "fetch-incomplete"),
        (raw(head("200 OK", Content_Encoding="gzip"), b"x" * 600), "fetch-answer-wrong"),
        (raw(b"nonsense\r\n\r\n"), "fetch-incomplete"),
        (raw(b""), "fetch-incomplete"),
        (raw(head("200 OK", Content_Length=2000), b"<html>" * 200), "archive-wrong"),
    ],
)
async def test_other_answers(world: World, answer: Answer, code: str) -> None:
    async with mirror(answer) as server:
        assert await world.refused(server.url()) == code


async def test_two_at_once_do_not_mix(world: World) -> None:
    data = world.made()
    async with mirror(stalls(head("200 OK", ETag='"one"') + data[:100_000])) as server:
        first = asyncio.ensure_future(world.fetch(server.url()))
        while not any(world.kept()):
            await asyncio.sleep(0.01)
        with pytest.raises(ProaError) as caught:
            await world.fetch(server.url())
        assert caught.value.code == "fetch-running"
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    assert world.kept() == [100_000]


async def test_a_full_disk_is_said_before_it_is_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proa.images.fetch.free_disk", lambda path: 1000)
    async with mirror(good(world.made())) as server:
        assert await world.refused(server.url()) == "disk-full"


async def test_a_manifest_for_another_computer(world: World) -> None:
    source = make_image(world.folder / "other", "other1", size=5000)
    content = json.loads((source / "manifest.json").read_text())
    content["architecture"] = "riscv64"
    keys = Keyring(world.folder / "keys")
    from proa.images import manifest as manifests
    from proa.images.signature import sign

    data = json.dumps(content).encode()
    (source / "manifest.json").write_bytes(data)
    (source / "manifest.sig").write_bytes(sign(data, keys))
    with (world.folder / "other.tar").open("wb") as out:
        archive.write(source, manifests.read(source), out)
    async with mirror(good((world.folder / "other.tar").read_bytes())) as server:
        assert await world.refused(server.url()) == "image-architecture"
