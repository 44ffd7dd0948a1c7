"""Confine: no folder of a store may be a link: what is written or erased through one lies elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import VolumeError

DEPTH = 5  # folders below the store that are looked into: documents, arrays, and the sections of an array's chunks


def refuse_links(root: Path) -> None:
    """Raise VolumeError where a folder of the store is a symbolic link. The store itself may be one.

    Not looked into: chunk folders below a section's, of which there may be millions. Files that are links are
    replaced, never written through.
    """
    found = next(_links(root, DEPTH), None) if root.is_dir() else None
    if found is not None:
        raise VolumeError(
            "a folder of the store is a symbolic link",
            where=str(found),
            why=f"it leads to {found.readlink()}, and what is written or erased there is not the store's",
            do="put the folder itself in its place",
        )


def _links(folder: Path, depth: int) -> Iterator[Path]:
    try:
        scanned = os.scandir(folder)
    except FileNotFoundError:  # whoever holds the store may remove folders; who waits for it sees none
        return
    with scanned as entries:
        below = [e for e in entries if e.is_dir()]
    yield from (Path(e.path) for e in below if e.is_symlink())
    for entry in below if depth > 1 else ():
        yield from _links(Path(entry.path), depth - 1)
