"""Kept: chunks that are out of force, so that what a run replaced can be brought back byte for byte.

zmend/kept/<run>/overlay|labels|uncertainty     what <run> made and a later one replaced: arrays for any Zarr reader

A chunk lies in force or here, hardly ever in both: what is kept is what was replaced, never the volume again. A record
finds its chunks by the run that made it, since a run makes a slab once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.box import Box
from pipeline.errors import VolumeError, ZmendError
from pipeline.files import Files
from pipeline.locate import node_at
from pipeline.store import DOCUMENTS
from pipeline.volume import Volume, voxels_sha256

Json = dict[str, Any]
ROOT = "zmend/kept"


class Kept:
    """The chunks of one store that are out of force."""

    def __init__(self, out: str, arrays: Mapping[str, Volume], fence: Callable[[], None] = lambda: None) -> None:
        """arrays: what slabs write, by name, in the order of digests. fence: asked before the chunks of a record are
        moved or written; raises if the store is another run's."""
        self.files, self.arrays, self._fence = Files(out), arrays, fence
        self._opened: dict[str, Volume] = {}

    def take(self, record: Json) -> None:
        """Move the chunks of a record out of force. What is not there any more is passed over: killed, it goes on."""
        moved = []
        self._fence()
        for name, array, box, _ in self._chunks(record):
            place = self._place(record, name)
            self._describe(array, place)
            for key in array.keys(box):
                if array.files.stat(key) is not None:
                    self.files.move(f"{self._path(array)}/{key}", f"{place}/{key}")
                    moved.append(f"{place}/{key}")
        self.files.sync(moved)  # the record follows them, and must not be on the disk first

    def faults(self, record: Json) -> Iterator[str]:
        """What is lost of a record's chunks. Reads and hashes all of them."""
        for name, _, box, digest in self._chunks(record):
            try:
                held = self._held(record, name, box)
                same = held is not None and voxels_sha256(held.read(box)) == digest
                wrong = "" if same else "is gone or not what was written"
            except (ZmendError, OSError) as e:
                wrong = str(e).splitlines()[0]
            if wrong:
                yield f"{name} chunk {box} of slab {record['slab']}: {wrong}"

    def hold(self, record: Json) -> None:
        """Keep also what is in force of a record that is to come back, and is not kept: equal bytes by another run, or
        by its own under another id. Before anything is retired, which moves what is in force to its own run's place."""
        self._fence()
        copied = []
        for name, array, box, _ in self._chunks(record):
            place = self._place(record, name)
            for key in array.keys(box):
                there = self.files.stat(f"{place}/{key}") is not None
                if not there and (raw := array.files.read(key)) is not None:
                    self._describe(array, place)
                    self.files.put(f"{place}/{key}", raw)
                    copied.append(f"{place}/{key}")
        self.files.sync(copied)

    def give(self, record: Json) -> None:
        """Put the chunks of a record where they were, byte for byte; they are kept still. Raises OSError where other
        voxels come back, or nothing is kept; that is found before the array is touched there."""
        self._fence()
        for name, array, box, digest in self._chunks(record):
            place = self._place(record, name)
            for key in array.keys(box):
                if (raw := self.files.read(f"{place}/{key}")) is None:
                    raise OSError(f"{place}/{key} was there when the revert began, and is gone")
                array.files.put(key, raw)
            array.files.sync(array.keys(box))
            if voxels_sha256(array.read(box)) != digest:
                raise OSError(f"other voxels came back from {name} chunk {box} of {array.uri} than were written")

    def drop(self, record: Json) -> None:
        """Keep the chunks of a record no longer: they are in force, or no revert needs them."""
        self._fence()
        for key in self._keys(record):
            self.files.delete(key)

    def held(self, record: Json) -> list[int]:
        """Bytes of each object that is kept of a record."""
        return [stored.size for stored in self.files.stats(self._keys(record)) if stored is not None]

    def clear_empty(self) -> None:
        """Remove what describes arrays of which nothing is kept any more."""
        for run in (self.files / ROOT).names() or ():
            here = self.files / f"{ROOT}/{run}"
            if all(stored.key.rpartition("/")[2] in DOCUMENTS for stored in here.walk()):
                self._fence()
                here.clear()

    def _keys(self, record: Json) -> list[str]:
        chunks = ((self._place(record, name), array.keys(box)) for name, array, box, _ in self._chunks(record))
        return [f"{place}/{key}" for place, keys in chunks for key in keys]

    def _held(self, record: Json, name: str, box: Box) -> Volume | None:
        """The array that holds a chunk: of what is kept; else in force, of which `hold` makes a kept one."""
        kept = self._place(record, name)
        arrays = [self._open(kept)] if node_at(self.files / kept) is not None else []
        there = (a for a in (*arrays, self.arrays[name]) if all(a.files.stats(a.keys(box))))
        return next(there, None)

    def _chunks(self, record: Json) -> Iterator[tuple[str, Volume, Box, str]]:
        for start, stop, *digests in record["chunks"]:
            for (name, array), digest in zip(self.arrays.items(), digests, strict=False):
                yield name, array, Box(tuple(start), tuple(stop)) & Box.of(array.shape), digest

    def _place(self, record: Json, name: str) -> str:
        run = str(record["run"])
        if not re.fullmatch(r"[\w-]+", run):  # it becomes a path
            raise VolumeError("no run is called so", where=f"the record of slab {record['slab']}", why=repr(run))
        return f"{ROOT}/{run}/{name}"

    def _path(self, array: Volume) -> str:
        return array.files.uri.removeprefix(f"{self.files.uri}/")

    def _describe(self, array: Volume, place: str) -> None:
        """Give what is kept the metadata of its array, the first time and when the array has grown."""
        if place in self._opened:
            return
        for name in DOCUMENTS:
            if (raw := array.files.read(name)) is not None and raw != self.files.read(f"{place}/{name}"):
                self.files.put(f"{place}/{name}", raw)
        self._opened[place] = Volume.open(self.files.at(place))

    def _open(self, place: str) -> Volume:
        if place not in self._opened:
            self._opened[place] = Volume.open(self.files.at(place))
        return self._opened[place]
