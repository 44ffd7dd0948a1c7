"""Ledger: one record per finished slab. That the record exists is what "done" means, so it is written last.

records/ab/ab12….json     current or future: the slab of this content id is finished
records/retiring/         superseded by another plan; its chunks are being erased
records/retired/          history: superseded, its chunks erased. Nothing is ever deleted
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import UnfitError, VolumeError
from pipeline.files import Files
from pipeline.recipe import digest

SCHEMA = "zmend-record/1"


class Ledger:
    """The records of one store, on a file system with atomic link and rename."""

    def __init__(self, out: str) -> None:
        self.folder = Path(out) / "zmend" / "records"

    def path(self, slab_id: str) -> Path:
        """Where the record of a slab lies, fanned out so that no folder grows too wide."""
        return self.folder / slab_id[:2] / f"{slab_id}.json"

    def has(self, slab_id: str) -> bool:
        """Whether the slab is finished."""
        return self.path(slab_id).exists()

    def get(self, slab_id: str) -> dict[str, Any]:
        """The record. Raises VolumeError where it is absent, damaged, edited or of another slab."""
        path = self.path(slab_id)
        try:
            record: dict[str, Any] = json.loads(path.read_text())
            said = record.pop("digest")
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as e:
            raise _bad_record(path, f"{type(e).__name__}: {e}") from e
        if said != digest(record) or record["slab"] != slab_id:
            raise _bad_record(path, "its content does not hash to what it says")
        return record

    def discard(self, slab_id: str) -> None:
        """Put a record that cannot be read aside: its slab is not done."""
        spoiled = self.folder / "spoiled"
        spoiled.mkdir(parents=True, exist_ok=True)
        self.path(slab_id).rename(spoiled / f"{slab_id}.{os.urandom(3).hex()}.json")

    def ids(self) -> set[str]:
        """Ids of all records that are not retired."""
        return {p.stem for p in self.folder.glob("??/*.json")}

    def commit(self, record: dict[str, Any]) -> bool:
        """Create the record durably, unless it exists: then nothing happens and False is returned."""
        final = self.path(record["slab"])
        final.parent.mkdir(parents=True, exist_ok=True)
        body = json.loads(json.dumps({"schema": SCHEMA, **record}))  # as it will be read back: tuples are lists
        return create(final, json.dumps({**body, "digest": digest(body)}, sort_keys=True))

    def retire(self, slab_ids: set[str]) -> None:
        """Take records out of force, before their chunks are erased. `finish_retiring` completes it."""
        aside = self.folder / "retiring"
        aside.mkdir(parents=True, exist_ok=True)
        for slab_id in sorted(slab_ids):
            self.path(slab_id).rename(aside / f"{slab_id}.json")

    def retiring(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Records whose chunks must be erased still."""
        for path in sorted((self.folder / "retiring").glob("*.json")):
            yield path, json.loads(path.read_text())

    def finish_retiring(self, path: Path, run: str) -> None:
        """The chunks are gone: the record becomes history."""
        history = self.folder / "retired"
        history.mkdir(parents=True, exist_ok=True)
        path.rename(history / f"{path.stem}.{run}.json")


def _bad_record(path: Path, why: str) -> VolumeError:
    return VolumeError("a record cannot be trusted", where=str(path), why=why, do="run again: its slab is done anew")


def create(path: Path, text: str) -> bool:
    """Write a file that appears whole or not at all, survives a power cut, and never replaces another."""
    tmp = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.partial")
    with tmp.open("w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    try:
        os.link(tmp, path)
    except FileExistsError:
        return False
    except OSError as e:
        raise UnfitError(
            "the file system has no hard links",
            where=str(path),
            why=str(e),
            do="put the output on a POSIX file system; `zmend doctor PATH` tests one",
        ) from e
    finally:
        tmp.unlink()
    _sync(path.parent)
    return True


def replace(path: Path, text: str) -> None:
    """Write a file that replaces another at once, and survives a power cut."""
    files = Files(str(path.parent))
    files.put(path.name, text.encode())
    files.sync([path.name])


def sweep(out: str) -> int:
    """Remove what writers that were killed left half-made. For the holder of the store's lock, after a dead one."""
    orphans = [p for part in ("zmend", "labels") for p in (Path(out) / part).rglob("*.partial")]
    for path in orphans:
        path.unlink(missing_ok=True)
    return len(orphans)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
