"""`python -m proa.images FOLDER`: sign an image that was built here, and import it."""

from __future__ import annotations

import sys
from pathlib import Path

from proa.images.keys import Keyring
from proa.images.store import ImageStore
from proa.model.errors import ProaError
from proa.system.paths import Places


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        print("usage: python -m proa.images FOLDER", file=sys.stderr)
        return 2
    try:
        places = Places.current()
        places.make()
        store = ImageStore(places.images, Keyring(places.keys))
        image = store.import_image(Path(argv[1]), lambda fraction: None, built_here=True)
    except ProaError as error:
        print(*error.lines, sep="\n", file=sys.stderr)
        return 2 if error.usage else 1
    print(f"proa: guest image {image.id} is ready", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
