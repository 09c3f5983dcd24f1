"""debian/copyright for the packages that lie in ours, made of what each says of itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

# Texts that Debian has on every system, by a sentence that is in each (Debian Policy 12.5).
_COMMON = (
    ("Apache-2.0", ("Apache License", "Version 2.0")),
    ("LGPL-2", ("GNU LIBRARY GENERAL PUBLIC LICENSE", "Version 2,")),
    ("LGPL-2.1", ("GNU LESSER GENERAL PUBLIC LICENSE", "Version 2.1")),
    ("GPL-2", ("GNU GENERAL PUBLIC LICENSE", "Version 2,")),
    ("MPL-2.0", ("Mozilla Public License", "2.0")),
)
_HOLDER = re.compile(r"^[\W_]*copyright\b[\s:]*(?:\(c\)|©)?[\s:]*(?P<holder>.*\w.*)$", re.IGNORECASE)
_NAMED = re.compile(r"\d{4}|contributors|authors", re.IGNORECASE)
# A license's own author, and its example for those who use it.
_NOT_HOLDERS = ("Free Software Foundation", "[yyyy]", "<year>")
_HEAD = 1500  # characters of a source file in which it names its holders


@dataclass(frozen=True)
class Component:
    """One package: its license as it names it, and the texts that came with it."""

    name: str
    version: str
    license: str
    files: str  # a pattern of paths in the Debian package
    texts: tuple[str, ...]
    holders: tuple[str, ...]


def read(site: Path) -> list[Component]:
    """What lies in a site-packages folder, in order. Raises ValueError where one names no license."""
    found = []
    for info in sorted(site.glob("*.dist-info"), key=lambda path: path.name.lower()):
        distribution = metadata.Distribution.at(info)
        if distribution.name == "proa":
            continue
        named = distribution.metadata["License-Expression"] or _classified(distribution)
        texts = tuple(path.read_text(errors="replace") for path in sorted(_license_files(info)))
        if not named or not texts:
            raise ValueError(f"{distribution.name} says nothing of its license, or brings no text")
        sources = [path for path in distribution.files or () if path.suffix in (".py", ".so")]
        top = sorted({path.parts[0] for path in sources})
        patterns = [f"usr/lib/proa/lib/python3*/site-packages/{part}" for part in (*top, info.name)]
        found.append(
            Component(
                distribution.name,
                distribution.version,
                named,
                "\n ".join(pattern if pattern.endswith(".py") else f"{pattern}/*" for pattern in patterns),
                texts,
                holders(texts) or holders(_heads(site / path for path in sources if path.suffix == ".py")),
            )
        )
    return found


def _classified(distribution: metadata.Distribution) -> str:
    plain = (distribution.metadata["License"] or "").strip()
    if plain and "\n" not in plain:
        return plain
    classifiers = distribution.metadata.get_all("Classifier") or []
    return next((text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License ::")), "")


def _license_files(info: Path) -> list[Path]:
    names = re.compile(r"licen[cs]e|copying|notice", re.IGNORECASE)
    return [path for path in info.rglob("*") if path.is_file() and names.search(path.name)]


def _heads(paths: Iterable[Path]) -> list[str]:
    return [path.read_text(errors="replace")[:_HEAD] for path in paths]


def holders(texts: Iterable[str]) -> tuple[str, ...]:
    """Who holds the rights, by the lines that say so; each once."""
    lines = [line for text in texts for line in text.splitlines()]
    found = [match["holder"].strip() for line in lines if (match := _HOLDER.match(line))]
    return tuple(
        dict.fromkeys(
            holder
            for holder in found
            if _NAMED.search(holder)
            and re.search(r"[^\W\d_]{2}", holder)
            and not any(word in holder for word in _NOT_HOLDERS)
        )
    )


def render(components: list[Component]) -> str:
    """Paragraphs of a machine-readable copyright file (its format 1.0)."""
    return "\n".join(_paragraph(component) for component in components)


def _paragraph(component: Component) -> str:
    said = "\n ".join(component.holders) or f"the authors of {component.name}"
    label = f"{component.name}-{re.sub(r'[^A-Za-z0-9.+]+', '-', component.license).strip('-')}"
    body = "\n\n".join(_text(text) for text in component.texts)
    lines = [f" {line.rstrip()}" if line.strip() else " ." for line in body.strip().splitlines()]
    return (
        f"Files: {component.files}\nCopyright: {said}\nLicense: {label}\nComment: {component.name} "
        f"{component.version}, as its authors publish it ({component.license}).\n\nLicense: {label}\n"
        + "\n".join(lines)
        + "\n"
    )


def _text(text: str) -> str:
    for name, sentences in _COMMON:
        if all(sentence.lower() in text[:2000].lower() for sentence in sentences):
            return f"On Debian systems this license is in /usr/share/common-licenses/{name}."
    return text
