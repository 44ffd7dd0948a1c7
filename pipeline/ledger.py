"""Ledger: one record per finished slab. That the record exists is what "done" means, so it is written last.

records/ab/ab12….json     current or future: the slab of this content id is finished
records/packs/            many such together, once there are many; see packs
records/retiring/         superseded by another plan; its chunks are being erased
records/retired/          history: superseded, its chunks erased. Nothing is ever deleted
records/spoiled/          could not be trusted
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Container, Iterable, Iterator
from functools import cached_property
from typing import Any

from pipeline.errors import VolumeError
from pipeline.failpoint import reach
from pipeline.files import Files
from pipeline.ids import Ids, column, is_id
from pipeline.packs import Packs
from pipeline.recipe import digest
from pipeline.rows import Rows, of_records

SCHEMA = "zmend-record/1"
PACK_AT = 1024  # loose records; fewer stay files that people can read


class Ledger:
    """The records of one store."""

    def __init__(self, out: str, fence: Callable[[], None] = lambda: None) -> None:
        """fence: asked before a record is made, packed, retired or put aside; raises if the store is another run's."""
        self.files, self._fence = Files(out) / "zmend/records", fence

    @cached_property
    def packs(self) -> Packs:
        """What was packed. Read when first asked for: a worker never does."""
        return Packs(self.files, self._fence)

    @staticmethod
    def key(slab_id: str) -> str:
        """Where the record of a slab lies, fanned out so that no folder grows too wide."""
        return f"{slab_id[:2]}/{slab_id}.json"

    def has(self, slab_id: str) -> bool:
        """Whether the slab is finished."""
        return slab_id in self.packs.ids or self.is_loose(slab_id)

    def is_loose(self, slab_id: str) -> bool:
        """Whether the slab's record lies by itself, as every record does at first."""
        return self.files.stat(self.key(slab_id)) is not None

    def get(self, slab_id: str) -> dict[str, Any]:
        """The record. Raises VolumeError where it is absent, damaged, edited or of another slab."""
        packed = self.packs.get(slab_id)
        return self._loose(slab_id) if packed is None else packed

    def _loose(self, slab_id: str) -> dict[str, Any]:
        where = self.files.at(self.key(slab_id))
        raw = self.files.read(self.key(slab_id))
        if raw is None:
            raise _bad_record(where, "it is not there")
        try:
            return _trusted(raw, slab_id)
        except _Spoiled as e:
            raise _bad_record(where, str(e)) from e
        except (ValueError, KeyError, AttributeError, TypeError) as e:
            raise _bad_record(where, f"{type(e).__name__}: {e}") from e

    def discard(self, slab_id: str) -> None:
        """Put a record that cannot be read aside: its slab is not done."""
        self._fence()
        self.files.move(self.key(slab_id), f"spoiled/{slab_id}.{os.urandom(3).hex()}.json")

    def ids(self) -> set[str]:
        """Ids of all records that are not retired."""
        return self.loose_ids().union(self.packs.ids)

    def loose_ids(self) -> set[str]:
        """Ids of the records that are not packed, or not yet removed after that."""
        folders = [name for name in self.files.names() or () if len(name) == 2]
        return {name[:-5] for names in self.files.names_below(folders) for name in names if _is_record(name)}

    def commit(self, record: dict[str, Any]) -> bool:
        """Create the record durably, unless it exists: then nothing happens and False is returned."""
        body = json.loads(json.dumps({"schema": SCHEMA, **record}))  # as it will be read back: tuples are lists
        reach("record", record["slab"])
        self._fence()
        return self.files.create(self.key(record["slab"]), _text(body))

    def done(self) -> Ids:
        """Ids of all records that are not retired, in sixteen bytes each."""
        return self.packs.ids.plus(column(sorted(i for i in self.loose_ids() if is_id(i))))

    def records(self) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Every finished slab's id and record; None where it cannot be trusted. Packed ones pack by pack."""
        packed = self.packs.ids
        yield from ((record["slab"], record) for record in self.packs.records())
        yield from ((i, self.loose(i)) for i in sorted(self.loose_ids()) if i not in packed)

    def rows(self, doubtful: Callable[[str], object] = lambda _: None) -> Iterator[Rows]:
        """Every finished slab's record, as columns: a million of them take seconds.

        doubtful: hears of the ids whose record cannot be trusted.
        """
        packed = self.packs.ids
        yield from self.packs.rows()
        loose = sorted(i for i in self.loose_ids() if i not in packed)
        for start in range(0, len(loose), PACK_AT):
            found = {i: self.loose(i) for i in loose[start : start + PACK_AT]}
            for slab_id in (i for i, record in found.items() if record is None):
                doubtful(slab_id)
            yield of_records(record for record in found.values() if record is not None)

    def pack(self, least: int | None = None) -> int:
        """Put loose records into packs, if there are so many; returns how many. For the holder of the store's lock.

        A record is removed only when it lies in a pack for good: killed at any point, it is in one or both of them.
        """
        loose = sorted(i for i in self.loose_ids() if is_id(i))
        if len(loose) < (PACK_AT if least is None else least):
            return 0
        packed = self.packs.ids
        good = [(i, record) for i in loose if (record := self.loose(i)) is not None]
        self.packs.append(record for i, record in good if i not in packed)
        for slab_id, _ in good:
            reach("pack", slab_id)
            self._fence()
            self.files.delete(self.key(slab_id))
        return len(good)

    def loose(self, slab_id: str) -> dict[str, Any] | None:
        """The record that lies by itself; None where there is none, or none that can be trusted.

        What a worker asks: it must not know a packed record that has been taken out of force since it looked.
        """
        try:
            return self._loose(slab_id)
        except VolumeError:
            return None

    def retire(self, slab_ids: Iterable[str]) -> None:
        """Take records out of force, before their chunks are erased. `finish_retiring` completes it.

        What a kill left in both places, or retiring but still packed, is not in force either.
        """
        loose, packed = self.loose_ids(), self.packs.ids
        gone = {name[:-5] for name in self._retiring()} | set(slab_ids)
        copied = [i for i in sorted(gone) if i in packed]
        for slab_id in copied:
            self._fence()
            self.files.put(f"retiring/{slab_id}.json", _text(self.get(slab_id)))
        self.files.sync(f"retiring/{slab_id}.json" for slab_id in copied)
        if copied:
            self.packs.append((), withdrawn=copied)
        for slab_id in sorted(gone & loose):
            self._fence()
            self.files.move(self.key(slab_id), f"retiring/{slab_id}.json")

    def retiring(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Records whose chunks must be erased still, each with the name that `finish_retiring` wants."""
        for name in self._retiring():
            yield name, json.loads(self.files.read(f"retiring/{name}") or b"")

    def _retiring(self) -> list[str]:
        return [name for name in (self.files / "retiring").names() or () if _is_record(name)]

    def history(self, slab_ids: Container[str]) -> Iterator[dict[str, Any]]:
        """Retired records of these slabs; those that cannot be trusted are left out."""
        for name in (self.files / "retired").names() or ():
            if _is_record(name) and name.split(".")[0] in slab_ids:
                try:
                    yield _trusted(self.files.read(f"retired/{name}") or b"", name.split(".")[0])
                except (ValueError, KeyError, AttributeError, TypeError):
                    continue

    def finish_retiring(self, name: str, run: str) -> None:
        """The chunks are gone: the record becomes history."""
        self._fence()
        self.files.move(f"retiring/{name}", f"retired/{name[:-5]}.{run}.json")


class _Spoiled(ValueError):
    """A record that is not what it says."""


def _trusted(raw: bytes, slab_id: str) -> dict[str, Any]:
    """The record of a slab, in a file of its own. Raises _Spoiled, or whatever a file that is no record leads to."""
    record: dict[str, Any] = json.loads(raw)
    said = record.pop("digest")
    if said != digest(record) or record["slab"] != slab_id or raw != _text(record):
        raise _Spoiled("its content does not hash to what it says")
    return record


def _text(record: dict[str, Any]) -> bytes:
    return json.dumps({**record, "digest": digest(record)}, sort_keys=True).encode()


def _is_record(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _bad_record(where: str, why: str) -> VolumeError:
    return VolumeError("a record cannot be trusted", where=where, why=why, do="run again: its slab is done anew")


SWEPT_BY_SURVEYS = {"zmend": ("overlay/c/", "uncertainty/c/"), "labels": ("synthetic/0/c/",)}  # see `sweep`


def sweep(out: str, *, surveyed: bool = False) -> int:
    """Remove what writers that were killed left half-made, and say how many. For the holder of the store's lock, before
    anybody works for it: a writer of an earlier run that lives still has lost the store, and nobody wants its work.

    surveyed: a survey follows, which lists the chunks that slabs write anyhow, and removes what is half-made there.
    """
    files = Files(out)
    documents = [name for name in files.names() or () if name.endswith(".partial")]
    for name in documents if files.local is not None else ():
        files.delete(name)
    parts = SWEPT_BY_SURVEYS.items()
    return len(documents) + sum((files / part).sweep(but if surveyed else ()) for part, but in parts)
