"""Builds the test images from Debian packages as single uncompressed layers, and keeps them.

Uncompressed because an emulated guest unpacks gzip slower than its network delivers. Image format:
the Docker image specification v1.2 (config) and image manifest version 2, schema 2.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import os
import platform
import posixpath
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import elf
from tests.support.caches import cache_folder
from tests.support.commands import run
from tests.support.recipes import File, Recipe, recipes

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BUILD_TIMEOUT = 180.0
UNUSED_DAYS = 14
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_NPM_HOME = "usr/local/lib/node_modules/npm"


@dataclass(frozen=True)
class BuiltImage:
    """An image on disk, ready to be pushed."""

    repository: str
    tag: str
    layer: Path
    layer_digest: str
    config: bytes

    @property
    def config_digest(self) -> str:
        return digest(self.config)

    @property
    def manifest(self) -> bytes:
        config = {"mediaType": CONFIG_TYPE, "size": len(self.config), "digest": self.config_digest}
        layer = {"mediaType": LAYER_TYPE, "size": self.layer.stat().st_size, "digest": self.layer_digest}
        return json.dumps(
            {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": [layer]}
        ).encode()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def build_all(folder: Path, say: Callable[[str], None]) -> tuple[BuiltImage, ...]:
    """All images, from the cache where it has them. AssertionError carries a failing command's output."""
    with ThreadPoolExecutor(2) as pool:  # apt is bound by the network, the rest by one core
        images = tuple(pool.map(lambda recipe: _cached(recipe, folder, say), recipes(CERTIFICATES)))
    for image in images:
        os.utime(image.layer.parent)
    _forget_unused(folder)
    return images


def save(repository: str, archive: Path, say: Callable[[str], None]) -> None:
    """Write one of them as `docker load` takes it, under the name that Docker Hub's would have."""
    image = next(
        image for image in build_all(cache_folder("test-images"), say) if image.repository == repository
    )
    name = f"{image.repository.removeprefix('library/')}:{image.tag}"
    listed = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as out:
        for path, data in (("manifest.json", json.dumps(listed).encode()), ("config.json", image.config)):
            info = tarfile.TarInfo(path)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
        out.add(image.layer, "layer.tar")


def _cached(recipe: Recipe, folder: Path, say: Callable[[str], None]) -> BuiltImage:
    home = folder / _key(recipe)
    if not home.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as scratch:
            made = Path(scratch) / "image"
            made.mkdir()
            _build(recipe, Path(scratch), made)
            try:
                made.rename(home)
            except OSError:  # another run was faster; its image is the same
                if not home.is_dir():
                    raise
        say(f"{recipe.name}: built, {(home / 'layer.tar').stat().st_size >> 20} MiB")
    config = (home / "config.json").read_bytes()
    (layer_digest,) = json.loads(config)["rootfs"]["diff_ids"]
    return BuiltImage(recipe.repository, recipe.tag, home / "layer.tar", layer_digest, config)


def _key(recipe: Recipe) -> str:
    """Names what the recipe gives: itself, the code that carries it out, and the architecture."""
    code = b"".join((Path(__file__).parent / name).read_bytes() for name in ("debian_images.py", "elf.py"))
    text = repr(recipe).encode() + code + platform.machine().encode()
    return recipe.repository.replace("/", "-") + "-" + hashlib.sha256(text).hexdigest()[:16]


def _build(recipe: Recipe, scratch: Path, made: Path) -> None:
    root = scratch / "root.tar"
    command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={','.join(recipe.packages)}"]
    run([*command, recipe.debian, str(root)], timeout=BUILD_TIMEOUT).check()
    layer = made / "layer.tar"
    with tarfile.open(root) as packages, tarfile.open(layer, "w", format=tarfile.GNU_FORMAT) as out:
        npm = _npm(recipe, scratch) if recipe.npm else ()
        _write(out, {**_kept(packages, recipe), **{file.path: file for file in (*recipe.files, *npm)}})
    config = _image_config(recipe, "sha256:" + _hash(layer))
    (made / "config.json").write_text(json.dumps(config))


def _kept(packages: tarfile.TarFile, recipe: Recipe) -> dict[str, File]:
    """The files that `keep` names and the libraries that those are linked with."""
    members = {member.name.removeprefix("./"): member for member in packages.getmembers()}
    libraries = {posixpath.basename(name): name for name in members if "/man" not in name and ".so" in name}
    wanted = [
        name
        for name, member in members.items()
        if not member.isdir() and _matches(name, recipe.keep) and not _matches(name, recipe.drop)
    ]
    unmatched = [
        pattern for pattern in recipe.keep if not any(fnmatch.fnmatch(name, pattern) for name in wanted)
    ]
    assert not unmatched, f"{recipe.name}: the packages have nothing like {unmatched}"
    kept: dict[str, File] = {}
    while wanted:
        name = wanted.pop()
        if name in kept:
            continue
        member = members[name]
        if member.issym():
            kept[name] = File(name, target=member.linkname)
            target = _resolve(name, member.linkname)
            wanted += [] if members[target].isdir() else [target]
            continue
        stream = packages.extractfile(member)
        assert stream is not None, f"{recipe.name}: {name} is neither file nor link"
        kept[name] = File(name, stream.read(), mode=member.mode & 0o777)
        for need in elf.needed(kept[name].content or b""):
            wanted.append(need.lstrip("/") if "/" in need else libraries[need])
    return kept


def _resolve(name: str, target: str) -> str:
    return posixpath.normpath(posixpath.join("/", posixpath.dirname(name), target)).lstrip("/")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _npm(recipe: Recipe, scratch: Path) -> Iterator[File]:
    """npm as its own package, with the host's npm as the client that fetches it."""
    packed = run(["npm", "pack", "--silent", recipe.npm], timeout=BUILD_TIMEOUT, cwd=scratch).check()
    with tarfile.open(scratch / packed.out.splitlines()[-1]) as package:
        for member in package:
            name = member.name.removeprefix("package/")
            if member.isfile() and not _matches(name, recipe.npm_drop):
                stream = package.extractfile(member)
                assert stream is not None
                yield File(f"{_NPM_HOME}/{name}", stream.read(), mode=member.mode & 0o755)
    for program in ("npm", "npx"):
        yield File(f"usr/local/bin/{program}", target=f"/{_NPM_HOME}/bin/{program}-cli.js")


def _write(out: tarfile.TarFile, files: dict[str, File]) -> None:
    """Sorted, without times, folders before what is in them: the same files give the same digest."""
    for name in list(files):
        for parent in map(str, Path(name).parents):
            if parent != ".":
                files.setdefault(parent, File(parent, mode=0o755))
    for name in sorted(files):
        file = files[name]
        info = tarfile.TarInfo(name)
        info.mode, info.uid, info.gid = file.mode, file.owner, file.owner
        if file.target:
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, file.target, 0o777
        elif file.content is None:
            info.type = tarfile.DIRTYPE
        else:
            info.size = len(file.content)
        out.addfile(info, io.BytesIO(file.content or b""))


def _image_config(recipe: Recipe, diff_id: str) -> dict[str, Any]:
    epoch = "1970-01-01T00:00:00Z"
    return {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "created": epoch,
        "config": dict(recipe.config),
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": epoch, "created_by": f"Debian packages: {', '.join(recipe.packages)}"}],
    }


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _forget_unused(folder: Path) -> None:
    """Remove images of earlier recipes, and what a killed build left."""
    oldest = time.time() - UNUSED_DAYS * 86_400
    for entry in folder.iterdir():
        if entry.stat().st_mtime < oldest:
            shutil.rmtree(entry)
