#!/usr/bin/env python3
"""Build the guest image: kernel, initrd, read-only root, Docker CLI, manifest. Prints the image's folder.

Cached twice: Debian's packages under their versions, the image under all it is built from; so a change
of the guest's own code costs seconds. Example: vmimages/build.py --architecture amd64 --suite trixie
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import initrd
import manifest
import root
import sources
import version
from packages import bootstrap, resolve, settle
from recipe import CLI_FILES
from run import BuildError, Steps

HERE = Path(__file__).resolve().parent
KEEP = 3  # images and package archives in the cache
MOST_GUEST = 300 << 20  # bytes that the guest's own files may have, without what lies beside them for hosts


def cache_folder() -> Path:
    """PROA_IMAGE_CACHE, or the user's cache."""
    if chosen := os.environ.get("PROA_IMAGE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proa" / "images"


def key_of(*parts: object) -> str:
    """One hash of all parts; a path counts by its name and content, a folder by its Python files."""
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            files = sorted(part.rglob("*.py")) if part.is_dir() else [part]
            for file in files:
                state.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
        else:
            state.update(json.dumps(part, sort_keys=True).encode() + b"\0")
    return state.hexdigest()


def recipe_key(architecture: str, suite: str) -> str:
    """The hash of everything of ours that goes into an image."""
    ours = sorted(path for path in HERE.iterdir() if path.is_file())
    return key_of(architecture, suite, *ours, root.GUEST)


def build(architecture: str, suite: str, cache: Path, steps: Steps) -> Path:
    """The image's folder, built where it is not there yet. Raises BuildError."""
    cache.mkdir(parents=True, exist_ok=True)
    recipe = recipe_key(architecture, suite)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            versions = resolve(architecture, suite)
        except BuildError as error:
            return newest_of(cache, recipe, error, steps)
        key = key_of(recipe, versions)
        image = cache / key[:24]
        if (image / "manifest.json").exists():
            os.utime(image)
            return image
        archive = cache / f"packages-{key_of(architecture, suite, versions, HERE / 'packages.py')[:24]}.tar"
        if not archive.exists():
            steps.say(f"installing {len(versions)} packages of Debian {suite} for {architecture}")
            partial = cache / ".build-packages.tar"
            bootstrap(architecture, suite, partial)
            partial.rename(archive)
        os.utime(archive)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".build-", ignore_cleanup_errors=True) as work:
            assemble(Path(work), archive, architecture, suite, key, steps)
            made = Path(work) / "image"
            (made / "recipe").write_text(recipe)
            made.rename(image)
        prune(cache, image, archive)
    return image


def assemble(work: Path, archive: Path, architecture: str, suite: str, key: str, steps: Steps) -> None:
    """Everything of the image, in `work`/image."""
    image, tree = work / "image", work / "root"
    image.mkdir()
    steps.say("unpacking")
    root.unpack(archive, tree)
    packages = root.installed(tree)
    number = version.of(tree, packages)
    sources.write(image, tree, architecture, suite)
    kernel, modules = root.kernel_of(tree)
    shutil.copyfile(kernel, image / "kernel")
    (image / "initrd").write_bytes(initrd.build(tree, HERE / "initrd-init", modules))
    for name, source in CLI_FILES.items():
        (image / "cli" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tree / source, image / "cli" / name)
        (image / "cli" / name).chmod(0o755)
    steps.say("trimming and furnishing the root")
    root.trim_modules(modules, tree)
    root.trim(tree)
    root.furnish(tree, architecture)
    steps.say("packing the root")
    root.pack(tree, image / "root.erofs")
    manifest.write(image, key, number, architecture, suite, modules.version, packages)
    size = sum((image / name).stat().st_size for name in manifest.IMAGE_FILES)
    if size > MOST_GUEST:
        raise BuildError(f"the guest has {size >> 20} MiB, and {MOST_GUEST >> 20} MiB are the most")
    whole = sum(path.stat().st_size for path in image.rglob("*") if path.is_file())
    steps.say(f"done: {whole >> 20} MiB, {size >> 20} MiB of them the guest's")


def newest_of(cache: Path, recipe: str, error: BuildError, steps: Steps) -> Path:
    """Without an archive: the newest image of this very recipe. Raises `error` where there is none."""
    found = [
        path.parent
        for path in cache.glob("*/recipe")
        if path.read_text() == recipe and (path.parent / "manifest.json").exists()
    ]
    if not found:
        raise error
    steps.say("the package archive cannot be reached: using the image that was built last")
    return max(found, key=lambda path: path.stat().st_mtime)


def prune(cache: Path, *keep: Path) -> None:
    """Keep the newest few of each kind."""
    images = [path.parent for path in cache.glob("*/manifest.json")]
    for entries in (images, list(cache.glob("packages-*.tar"))):
        entries.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in entries[KEEP:]:
            if path not in keep:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in cache.glob(".build-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", default="amd64", help="Debian's name of it (default: amd64)")
    parser.add_argument("--suite", default="trixie", help="Debian's release (default: trixie)")
    parser.add_argument("--output", type=Path, help="the cache's folder (default: the user's cache)")
    parser.add_argument(
        "--print-path", action="store_true", help="print the image's folder, and nothing else"
    )
    parser.add_argument(
        "--resolve-only", action="store_true", help="list the packages and their versions, and build nothing"
    )
    options = parser.parse_args()
    settle()
    steps = Steps()
    try:
        if options.resolve_only:
            for name, number in resolve(options.architecture, options.suite).items():
                print(name, number)
            return 0
        image = build(options.architecture, options.suite, options.output or cache_folder(), steps)
    except (BuildError, OSError) as error:
        print(f"proa: the guest image cannot be built\n{error}", file=sys.stderr)
        return 1
    print(image)
    return 0


if __name__ == "__main__":
    sys.exit(main())
