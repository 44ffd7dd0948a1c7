"""Store: the output group that a run fills: merged levels, overlay, labels. Made by one process, before any chunk.

    out.zarr/            OME image (0.4 for Zarr v2, 0.5 for v3) with the attribute `zmend`
      0..N               merged levels, their metadata copied from the source byte for byte (mode "volume")
      zmend/overlay      restored sections, sparse, chunks one section deep
      labels/synthetic   uint8, sparse: what every voxel is; as many levels 0..M as the image has
      zmend/uncertainty  uint8, sparse: spread of an ensemble, in the grey levels per count that its attributes tell;
                         there only where the recipe asks for it
"""

from __future__ import annotations

import json

from pipeline.box import ZYX
from pipeline.errors import VolumeError
from pipeline.failpoint import reach
from pipeline.files import Files
from pipeline.ome import Json
from pipeline.recipe import GREY_PER_COUNT
from pipeline.volume import Volume

OVERLAY = "zmend/overlay"
LABELS = "labels/synthetic"
UNCERTAINTY = "zmend/uncertainty"
DOCUMENTS = ("zarr.json", ".zarray", ".zattrs", ".zgroup")


def open_overlay(out: str) -> Volume:
    """The overlay, to write. Raises VolumeError where there is no store."""
    return Volume.open(at(out).at(OVERLAY), writable=True)


def open_labels(out: str, level: int = 0) -> Volume:
    """A level of the label image `synthetic`, to write. Raises VolumeError where there is no store, no such level."""
    return Volume.open(at(out).at(f"{LABELS}/{level}"), writable=True)


def open_uncertainty(out: str) -> Volume:
    """The spread of the ensemble, to write. Raises VolumeError where the store has none, or of another scale."""
    if not has_uncertainty(out):
        raise VolumeError(
            "the store tells no uncertainty",
            where=f"{out}/{UNCERTAINTY}",
            why="its recipe asks for none, or the array was deleted",
            do="set recipe.uncertainty, or run again: what was deleted is made again",
        )
    array = Volume.open(at(out).at(UNCERTAINTY), writable=True)
    raw = array.files.read("zarr.json")
    said = json.loads(raw)["attributes"] if raw else json.loads(array.files.read(".zattrs") or b"{}")
    if said.get("zmend", {}).get("grey_levels_per_count") != GREY_PER_COUNT:
        raise VolumeError(
            f"the counts of the uncertainty are not of {GREY_PER_COUNT} grey levels",
            where=array.uri,
            why="its attributes were edited, or another version of zmend wrote it",
            do="name another output",
        )
    return array


def made_arrays(out: str) -> dict[str, Volume]:
    """What slabs write, by name, in the order of a record's digests: overlay, labels, spread if there is one."""
    spread = {"uncertainty": open_uncertainty(out)} if has_uncertainty(out) else {}
    return {"overlay": open_overlay(out), "labels": open_labels(out), **spread}


def has_uncertainty(out: str) -> bool:
    """Whether the store tells the spread of an ensemble."""
    return document_of(at(out) / UNCERTAINTY) is not None


def has_merged(out: str) -> bool:
    """Whether the store holds the merged volume, up to date or not."""
    return document_of(at(out) / "0") is not None


def open_merged(out: str) -> Volume:
    """The merged volume at the mended level, to read. Raises VolumeError where there is none."""
    if not has_merged(out):
        raise VolumeError("there is no merged volume", where=out, why="overlay only", do="run zmend merge")
    return Volume.open(at(out).at("0"))


def overlay_grain(out: str) -> ZYX | None:
    """What one writer owns of the overlay that is there: (z, y, x) voxels; None where there is no store yet."""
    return None if is_free(at(out)) else open_overlay(out).grain


def is_store(out: str) -> bool:
    """Whether a store was made here."""
    files = at(out)
    return is_whole(files) and (files / OVERLAY).names() is not None


def read_attrs(out: str) -> Json:
    """The store's group attributes: `zmend`, and the OME part. Raises VolumeError where there is no group."""
    files = at(out)
    raw = files.read("zarr.json") or files.read(".zgroup")
    if raw is None:
        raise VolumeError("there is no zmend store here", where=files.uri, do="check `output`, or start with zmend run")
    try:
        doc = json.loads(raw)
        found = doc.get("attributes", {}) if doc["zarr_format"] == 3 else json.loads(files.read(".zattrs") or b"{}")
        if not isinstance(found, dict) or not isinstance(found.get("zmend", {}), dict):
            raise ValueError("its attributes are no table")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise VolumeError(
            "the store's attributes cannot be read",
            where=files.uri,
            why=f"{type(error).__name__}: {error}",
            do="bring zarr.json (.zgroup and .zattrs) back from a copy, or name another output",
        ) from error
    return found


def update_attrs(out: str, *, zmend: Json) -> None:
    """Set keys of the attribute `zmend`; readers see all of it or nothing. One process at a time."""
    attributes = read_attrs(out)
    attributes["zmend"] = attributes.get("zmend", {}) | zmend
    files = at(out)
    put_group(files, 2 if files.read("zarr.json") is None else 3, attributes)


def put_group(files: Files, form: int, attributes: Json, *, durable: bool = True) -> None:
    """durable: else whoever calls syncs it, together with others."""
    name, body = group_document(form, attributes)
    put = files.keep if durable else files.lay
    reach("attrs", files.uri)
    if form == 2:
        put(".zattrs", json.dumps(attributes, indent=2).encode())
    if form == 3 or files.read(name) is None:
        put(name, body)


def group_document(form: int, attributes: Json) -> tuple[str, bytes]:
    """The document that makes a group, its name and its text; of Zarr v2 the attributes lie beside it."""
    if form == 2:
        return ".zgroup", b'{"zarr_format": 2}'
    doc = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return "zarr.json", json.dumps(doc, indent=2).encode()


def at(out: str) -> Files:
    """Where a store lies. Raises VolumeError where none can."""
    files = Files(out)
    if files.local is None and files.bucket is None:
        raise VolumeError(
            "outputs go to a folder or to an S3 bucket",
            where=out,
            why="of other places it is not known whether they create an object only where there is none",
            do="name a local folder (NFS and Lustre are fine) or s3://bucket/key",
        )
    return files


def is_free(files: Files) -> bool:
    """Whether nothing lies there, or what a maker on an object store was killed over: `zmend` comes first there."""
    if files.local is not None:
        return not files.local.exists() or files.names() == []
    return next(files.walk(), None) is None or (not is_whole(files) and _half_made(files))


def is_whole(files: Files) -> bool:
    """Whether the group has its document. Locally a store appears whole, and one that lost it is a store still."""
    return files.local is not None or (files.stat("zarr.json") or files.stat(".zgroup")) is not None


def _half_made(files: Files) -> bool:
    zmend = files / "zmend"
    made = zmend.stat("zarr.json") or zmend.stat(".zgroup")
    return made is not None and next((zmend / "plans").walk(), None) is None


def document_of(files: Files) -> bytes | None:
    return files.read("zarr.json") or files.read(".zarray")
