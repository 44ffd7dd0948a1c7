"""Journal: zmend/merge.json, what a merge has written and from what; so that the next one skips it, killed or not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from pipeline.box import ZYX
from pipeline.failpoint import reach
from pipeline.files import Files
from pipeline.objects import Stored
from pipeline.pyramid import zyx
from pipeline.target import Target
from pipeline.volume import Volume

Fence = Callable[[], None]
JOURNAL = "zmend/merge.json"


class Journal:
    """zmend/merge.json: which touched chunks are written, from which inputs; so that a second merge skips them."""

    def __init__(self, out: str, targets: Sequence[Target], fence: Fence, anew: bool) -> None:
        self.files, self.targets, self.manifest, self.fence = Files(out), targets, "", fence
        self.written = monotonic()
        before = {} if anew else noted_in(self.files).get("touched", {})
        for target in targets:
            target.done = {k: v for k, v in before.get(target.name, {}).items() if cell_of(k) in target.touched}

    def put(self) -> None:
        """Write it; without a manifest it says that a merge is under way. It is never ahead of what is durable."""
        for target in self.targets:
            target.out.settle(target.laid)
            target.laid.clear()
        touched = {t.name: dict(sorted(t.done.items())) for t in self.targets}
        noted = {"schema": "zmend-merge/1", "source_manifest": self.manifest, "touched": touched}
        reach("merge", JOURNAL)
        self.fence()
        self.files.keep(JOURNAL, json.dumps(noted).encode())
        self.written = monotonic()


def source_manifest(source: Volume) -> str:
    """sha256 over name, size and time of every chunk object of the source's level. Reads no data."""
    digest = hashlib.sha256()
    for _, stored in source.objects():
        digest.update(manifest_line(stored))
    return digest.hexdigest()


def read_merge(out: str) -> dict[str, Any] | None:
    """What the last merge that ended noted (`source_manifest`, chunks touched), or None if none has."""
    noted = noted_in(Files(out))
    return noted if noted.get("source_manifest") else None


def forget_merge(out: str) -> None:
    """Note that the merged volume is behind the overlay. What the last merge touched stays known."""
    files = Files(out)
    noted = noted_in(files)
    if noted.get("source_manifest"):
        files.keep(JOURNAL, json.dumps({**noted, "source_manifest": ""}).encode())


def noted_in(files: Files) -> dict[str, Any]:
    """The journal; one that cannot be read counts as none: all is merged anew."""
    try:
        noted = json.loads(files.read(JOURNAL) or b"{}")
    except ValueError:
        return {}
    return noted if isinstance(noted, dict) else {}


def manifest_line(stored: Stored) -> bytes:
    """What a manifest holds of an object."""
    return f"{stored.key}\t{stored.size}\t{stored.mtime_ns}\t{stored.etag}\n".encode()


def name_of(cell: ZYX) -> str:
    """As the journal names it."""
    return ".".join(map(str, cell))


def cell_of(name: str) -> ZYX:
    return zyx(map(int, name.split(".")))


def as_it_lies(volume: Volume, cell: ZYX, inputs: str) -> list[Any]:
    """What the journal notes of a cell that was made from these inputs."""
    stored = volume.files.stat(volume.key(cell))
    return [inputs, *((stored.size, stored.etag or stored.mtime_ns) if stored else (0, 0))]
