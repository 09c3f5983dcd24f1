"""The verb `image`: list, build, fetch, import, verify, remove."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from proa.cli.common import agent, json_option, progress, table
from proa.model.errors import ProaError
from proa.model.image import BuildRequest, FetchRequest, ImageInfo, ImportRequest
from proa.model.showing import plain

_older = click.option("--allow-older", is_flag=True, help="Take it even if a newer one was here before.")


@click.group(epilog="Example:  proa image list")
def image_verb() -> None:
    """Guest images: what machines start from. Only signed ones are taken and started."""


@image_verb.command("list", epilog="Example:  proa image list --json")
@json_option
def list_images(as_json: bool) -> None:
    """All images, the newest first: a machine that names none starts from that."""
    with agent() as client:
        images = client.images()
    if as_json:
        _print_json(images)
    elif not images:
        click.echo("no images yet; in a checkout: proa image build; else: proa image fetch URL")
    else:
        head = ("IMAGE", "VERSION", "ARCHITECTURE", "SIZE", "SIGNED BY", "USED BY", "PROBLEM")
        click.echo(table(head, [_row(image) for image in images]))
        if offer := next((image.source_offer for image in images if image.source_offer), ""):
            click.echo(f"source code of what is in them: {plain(offer)}")


def _row(image: ImageInfo) -> tuple[str, ...]:
    return (
        image.id,
        image.version or "-",
        image.architecture or "-",
        f"{image.size >> 20}MiB" if image.size else "-",
        image.signer or "-",
        ", ".join(image.used_by) or "-",
        image.problem.code if image.problem else "",
    )


@image_verb.command("build", epilog="Example:  proa image build --archive proa-image.tar")
@click.option("--archive", help="Also write the signed image to this file, for others to import.")
def build(archive: str | None) -> None:
    """Build an image in a checkout of Proa's source, sign it with this installation's key, import it."""
    wanted = BuildRequest(archive=str(Path(archive).absolute()) if archive else "")
    with agent() as client, progress() as say:
        image = client.build_image(wanted, say)
    _say_ready(image)
    if archive:
        click.echo(f"written: {plain(archive)}; whoever trusts your key (keys/local.pub) can import it")


@image_verb.command("fetch", epilog="Example:  proa image fetch https://example.com/proa-image-amd64.tar")
@click.argument("url")
@_older
def fetch(url: str, allow_older: bool) -> None:
    """Download a signed image's archive and import it. Broken off, it goes on where it stopped."""
    with agent() as client, progress() as say:
        image = client.fetch_image(FetchRequest(url=url, allow_older=allow_older), say)
    _say_ready(image)


@image_verb.command("import", epilog="Example:  proa image import proa-image.tar")
@click.argument("path", metavar="FOLDER|ARCHIVE")
@_older
def import_(path: str, allow_older: bool) -> None:
    """Import a signed image from a folder or an archive."""
    wanted = ImportRequest(path=str(Path(path).absolute()), allow_older=allow_older)
    with agent() as client, progress() as say:
        image = client.import_image(wanted, say)
    _say_ready(image)


@image_verb.command("verify", epilog="Example:  proa image verify --json")
@click.argument("image", required=False)
@json_option
def verify(image: str | None, as_json: bool) -> None:
    """Check the signature and every byte of an image (default: the newest)."""
    with agent() as client, progress() as say:
        found = client.verify_image(image or "", say)
    if as_json:
        _print_json(found)
        return
    click.echo(f"{found.id} is whole: version {found.version}, signed by {plain(found.signer)}")
    if found.source_offer:
        click.echo(f"source code of its {found.packages} packages: {plain(found.source_offer)}")


@image_verb.command("remove", epilog="Example:  proa image remove --unused")
@click.argument("image", required=False)
@click.option("--unused", is_flag=True, help="All that no machine uses, but the newest.")
def remove(image: str | None, unused: bool) -> None:
    """Remove an image that no machine uses, or all such images."""
    if (image is None) != unused:
        raise ProaError(
            "bad-usage", "name an image, or say --unused", hint="see: proa image remove --help", usage=True
        )
    with agent() as client, progress() as say:
        gone = client.prune_images(say) if image is None else [client.remove_image(image, say)]
    freed = sum(found.size for found in gone) >> 20
    names = ", ".join(found.id for found in gone)
    click.echo(f"removed: {names} ({freed} MiB)" if gone else "nothing to remove: every image is in use")


def _say_ready(image: ImageInfo) -> None:
    click.echo(f"image {image.id} is ready: version {image.version}, signed by {plain(image.signer)}")
    if not image.used_by:
        click.echo("a machine that is started anew uses it: proa start")


def _print_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())
