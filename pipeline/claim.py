"""Claim: whether what lies at an output is a store, and one of this source and grid. Reads only."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pipeline.errors import VolumeError
from pipeline.files import Files
from pipeline.ome import Json
from pipeline.store import OVERLAY, at, open_overlay, read_attrs
from pipeline.volume import Volume

SCHEMA = "zmend-store/1"


def outside(out: str, source: Volume) -> Files:
    """Where `out` lies, which must not touch the source's place."""
    files = at(out)
    if files.overlaps(source.root):
        raise VolumeError(
            "the output lies in the source, or the source in the output",
            where=f"output {files.uri}, source {source.uri}",
            why="the source is never written",
            do="name another output",
        )
    return files


def said_by(out: str) -> Json:
    """What the store says in `zmend`. Raises VolumeError where `out` is something else."""
    try:
        said = read_attrs(out).get("zmend", {})
    except VolumeError:
        said = {}
    if said.get("schema") != SCHEMA:
        if _has_plans(out):
            raise VolumeError(
                "the metadata of this store is damaged or gone",
                where=Files(out).at("zarr.json"),
                why=f"it does not say {SCHEMA}, but plans of zmend lie beside it",
                do="bring it back from a copy (in Zarr v2: .zattrs and .zgroup): what was restored is still there",
            )
        raise VolumeError(
            "something that is no zmend store is there already",
            where=out,
            why=f"its attributes do not say {SCHEMA}",
            do="name another output, or remove it yourself",
        )
    assert isinstance(said, dict)
    return said


def _has_plans(out: str) -> bool:
    files = Files(out)
    with suppress(OSError):  # it is a file
        return not files.web and next((files / "zmend/plans").walk(), None) is not None
    return False


def check_source(files: Files, said: Json, source: Volume) -> None:
    was, now = said["source"], told_of(source)
    changed = [k for k in ("uri", "level", "identity") if was[k] != now[k]]
    if changed:
        names = {"identity": "shape, type, chunks, codecs or voxel size"}
        raise VolumeError(
            f"this store belongs to another source: {', '.join(names.get(k, k) for k in changed)} differ",
            where=files.uri,
            why=f"made from {was['uri']} level {was['level']}, asked for {now['uri']} level {now['level']}",
            do="name another output; if the source has only moved, set zmend.source.uri in the store's attributes",
        )
    overlay = Volume.open(f"{files.uri}/{OVERLAY}")
    if overlay.shape[0] > source.shape[0]:
        raise VolumeError(
            f"the source has {source.shape[0]} sections, it had {overlay.shape[0]}",
            where=source.uri,
            why="a source may grow in z, not shrink: sections that were restored would be lost",
            do=_put_aside(files),
        )


def _put_aside(files: Files) -> str:
    """What to type where a source has lost sections: until somebody does, every night ends here."""
    back = "bring the sections back (where they are being copied: wait, the next run goes on); are they gone for good, "
    if files.local is None:
        return f"{back}name another output, and run again: {files.uri} stays as it is"
    return f"{back}put this store aside and run again, which makes a new one: mv {files.uri} {files.uri}.before"


def check_grid(out: str, grid: dict[str, Any]) -> None:
    said_by(out)
    overlay = open_overlay(out)
    wanted = grid["chunks"], grid["shards"] or grid["chunks"]
    if (overlay.chunks, overlay.grain) != wanted:
        raise VolumeError(
            f"the store's overlay has chunks {overlay.chunks}, shards {overlay.grain}; asked for {wanted}",
            where=overlay.uri,
            why="slabs are whole shards of the overlay, and it is made once",
            do="keep the sizes that the store was made with, or name another output",
        )


def told_of(source: Volume) -> Json:
    return {
        "uri": source.uri,
        "level": source.level,
        "voxel_nm": None if source.voxel_nm is None else list(source.voxel_nm),
        "fingerprint": source.fingerprint(),
        "identity": source.identity(),
    }
