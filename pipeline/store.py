"""Store: the output group that a run fills: merged levels, overlay, labels. Made by one process, before any chunk.

    out.zarr/            OME image (0.4 for Zarr v2, 0.5 for v3) with the attribute `zmend`
      0..N               merged levels, their metadata copied from the source byte for byte (mode "volume")
      zmend/overlay      restored sections, sparse, chunks one section deep
      labels/synthetic   uint8, sparse: what every voxel is; as many levels 0..M as the image has
      zmend/uncertainty  uint8, sparse: spread of an ensemble, in the grey levels per count that its attributes tell;
                         there only where the recipe asks for it

Writes metadata documents only; arrays are made by `Volume.create`, so zarr is not imported here.
"""

from __future__ import annotations

import glob
import json
import shutil
from typing import Any, Literal
from uuid import uuid4

import numpy as np

from pipeline.box import ZYX
from pipeline.errors import VolumeError
from pipeline.failpoint import reach
from pipeline.files import Files
from pipeline.ome import (
    ZYX_NAMES,
    Image,
    Json,
    array_image,
    flat_image,
    image_attributes,
    image_from,
    label_attributes,
    labels_attributes,
)
from pipeline.recipe import GREY_PER_COUNT
from pipeline.volume import Volume

SCHEMA = "zmend-store/1"
OVERLAY = "zmend/overlay"
LABELS = "labels/synthetic"
UNCERTAINTY = "zmend/uncertainty"
SPREAD: Json = {
    "grey_levels_per_count": GREY_PER_COUNT,
    "meaning": "standard deviation of the ensemble, in grey levels of 0..255 (of the recipe's intensity window), "
    "rounded up; 0 where nothing was restored, 255 is that or more",
}
DOCUMENTS = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
Mode = Literal["volume", "overlay"]


def create_output(
    out: str,
    source: Volume,
    *,
    mode: Mode,
    chunk_yx: int,
    shard_yx: int | None,
    extra: dict[str, Any],
    spread: bool = False,
) -> None:
    """Make the output store of `source`, or check and (if the source has grown in z) extend the one that is there.

    chunk_yx, shard_yx: edge lengths in voxels of the overlay's chunks and shards (shards: Zarr v3 only, else ignored).
    extra: JSON values that join the attribute `zmend` of a new store. spread: whether it has a zmend/uncertainty; one
    that is there stays until `drop_uncertainty`.
    Raises VolumeError: something else is there, the store is of another source or grid, or `out` is a URL.
    """
    files = _outside(out, source)
    grid = _grid(source, chunk_yx, shard_yx)
    build = _build if files.local is not None else _build_in_place
    if not _is_free(files) or not build(files, source, mode, grid, extra, spread):
        _check_grid(out, grid)
        adopt(out, source, mode=mode, spread=spread)


def adopt(out: str, source: Volume, *, mode: Mode, spread: bool = False) -> None:
    """Check that the store is of `source`; extend it to a source that has grown; add the arrays it lacks.

    A store that has merged levels keeps them in either mode. Raises VolumeError for a store of another source.
    """
    files, said = _outside(out, source), _said(out)
    _check_source(files, said, source)
    levels = mode == "volume" or _document(files / "0") is not None
    overlay = open_overlay(out)
    grid = {"chunks": overlay.chunks, "shards": overlay.grain if overlay.layout.index_at else None}
    _put_arrays(files, source, levels, grid, spread or has_uncertainty(out))
    attributes = read_attrs(out) | _attributes(source, levels, said | {"source": _about(source)})
    if attributes != read_attrs(out) or misdescribed(out, source):
        _put_group(files / "labels", source.zarr_format, labels_attributes(_version(source), ["synthetic"]))
        _put_group(files / LABELS, source.zarr_format, _label_attributes(source, levels, has_uncertainty(out)))
        _put_group(files, source.zarr_format, attributes)


def drop_uncertainty(out: str, source: Volume, *, mode: Mode) -> None:
    """Remove the spread from a store whose recipe no longer asks for it; no record may tell of its chunks any more."""
    if has_uncertainty(out):
        # What is half removed must be an array still: then it is removed again.
        (_at(out) / UNCERTAINTY).clear(last=("zarr.json", ".zarray"))
        adopt(out, source, mode=mode)  # the labels' classes


def misdescribed(out: str, source: Volume) -> list[str]:
    """The groups of a store whose OME attributes are not what they must be for this source."""
    levels = _document(_at(out) / "0") is not None
    due = {
        "": _attributes(source, levels, {}),
        "labels": labels_attributes(_version(source), ["synthetic"]),
        LABELS: _label_attributes(source, levels, has_uncertainty(out)),
    }
    return [group or out for group, wanted in due.items() if not _holds(out, group, wanted)]


def _holds(out: str, group: str, wanted: Json) -> bool:
    try:
        found = read_attrs(f"{out}/{group}" if group else out)
    except VolumeError:
        return False
    return all(found.get(k) == json.loads(json.dumps(v)) for k, v in wanted.items() if k != "zmend")


def open_overlay(out: str) -> Volume:
    """The overlay, to write. Raises VolumeError where there is no store."""
    return Volume.open(_at(out).at(OVERLAY), writable=True)


def open_labels(out: str, level: int = 0) -> Volume:
    """A level of the label image `synthetic`, to write. Raises VolumeError where there is no store, no such level."""
    return Volume.open(_at(out).at(f"{LABELS}/{level}"), writable=True)


def open_uncertainty(out: str) -> Volume:
    """The spread of the ensemble, to write. Raises VolumeError where the store has none, or of another scale."""
    if not has_uncertainty(out):
        raise VolumeError(
            "the store tells no uncertainty",
            where=f"{out}/{UNCERTAINTY}",
            why="its recipe asks for none, or the array was deleted",
            do="set recipe.uncertainty, or run again: what was deleted is made again",
        )
    array = Volume.open(_at(out).at(UNCERTAINTY), writable=True)
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
    return _document(_at(out) / UNCERTAINTY) is not None


def has_merged(out: str) -> bool:
    """Whether the store holds the merged volume, up to date or not."""
    return _document(_at(out) / "0") is not None


def open_merged(out: str) -> Volume:
    """The merged volume at the mended level, to read. Raises VolumeError where there is none."""
    if not has_merged(out):
        raise VolumeError("there is no merged volume", where=out, why="overlay only", do="run zmend merge")
    return Volume.open(_at(out).at("0"))


def overlay_grain(out: str) -> ZYX | None:
    """What one writer owns of the overlay that is there: (z, y, x) voxels; None where there is no store yet."""
    return None if _is_free(_at(out)) else open_overlay(out).grain


def is_store(out: str) -> bool:
    """Whether a store was made here."""
    files = _at(out)
    return _is_whole(files) and (files / OVERLAY).names() is not None


def read_attrs(out: str) -> Json:
    """The store's group attributes: `zmend`, and the OME part. Raises VolumeError where there is no group."""
    files = _at(out)
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
    files = _at(out)
    _put_group(files, 2 if files.read("zarr.json") is None else 3, attributes)


# --- making


def _build(files: Files, source: Volume, mode: Mode, grid: dict[str, Any], extra: Json, spread: bool) -> bool:
    """Build under another name and rename: never a half-made store. False where someone else was faster."""
    path = files.local
    assert path is not None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        do = "name another output"
        raise VolumeError("the output would lie in a file", where=str(path), why=str(error), do=do) from error
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        aside = Files(str(temporary))
        attributes = _fill(aside, source, mode, grid, extra, spread)
        _put_group(aside, source.zarr_format, attributes, durable=False)
        aside.sync([s.key for s in aside.walk()])
        temporary.rename(path)
    except (OSError, VolumeError):  # also where who was faster has swept away what is half made here
        if _is_free(files):
            raise
        return False
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    Files(str(path.parent)).sync([path.name])
    return True


def sweep_beside(out: str) -> None:
    """Remove stores and locks that were half made by processes which were killed. For the holder of the store's lock.

    One who makes a store still, since this one was not there yet when it began, finds this one instead; one who makes
    a lock tries again.
    """
    path = Files(out).local
    if path is None:
        return
    for aside in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        shutil.rmtree(aside, ignore_errors=True)
    for aside in (path / "zmend").glob(".lock.*.partial"):
        aside.unlink(missing_ok=True)


def _build_in_place(files: Files, source: Volume, mode: Mode, grid: dict[str, Any], extra: Json, spread: bool) -> bool:
    """On an object store: the group's own document, without which there is no store, comes last. Killed before, what
    lies there is metadata alone, and is made anew. False where someone else was faster."""
    for key in [s.key for s in files.walk() if s.key.rpartition("/")[2] in DOCUMENTS]:
        files.delete(key)
    attributes = _fill(files, source, mode, grid, extra, spread)
    name, body = _group(source.zarr_format, attributes)
    if source.zarr_format == 2:
        files.put(".zattrs", json.dumps(attributes, indent=2).encode())
    return files.create(name, body)


def _fill(files: Files, source: Volume, mode: Mode, grid: dict[str, Any], extra: Json, spread: bool) -> Json:
    """Make all but the group itself, whose attributes are returned; not durable yet."""
    form, levels = source.zarr_format, mode == "volume"
    _put_group(files / "zmend", form, {}, durable=False)
    _put_group(files / "labels", form, labels_attributes(_version(source), ["synthetic"]), durable=False)
    _put_group(files / LABELS, form, _label_attributes(source, levels, spread), durable=False)
    _put_arrays(files, source, levels, grid, spread)
    zmend = {"schema": SCHEMA, "source": _about(source), **extra}
    return _attributes(source, levels, zmend)


def _put_arrays(files: Files, source: Volume, levels: bool, grid: dict[str, Any], spread: bool) -> None:
    """Make the arrays that are not there; give those that are the sections by which the source has grown."""
    pyramid = source.pyramid() if levels else (source,)
    names = [a["name"] for a in _image(source).axes]
    for i, level in enumerate(pyramid if levels else ()):
        if source.foreign:
            _put_array(files / str(i), level, level.dtype, {"chunks": level.chunks, "zarr_format": source.zarr_format})
        else:
            _put_level(files / str(i), level, names)
    small = np.dtype(np.uint8)
    sparse: list[tuple[str, Volume, np.dtype[Any], Json]] = [(OVERLAY, source, source.dtype, {})]
    sparse += [(f"{LABELS}/{i}", level, small, {}) for i, level in enumerate(pyramid)]
    sparse += [(UNCERTAINTY, source, small, SPREAD)] if spread else []
    for path, like, dtype, about in sparse:
        _put_array(files / path, like, dtype, {**grid, "zarr_format": source.zarr_format, "about": about})


def _put_array(files: Files, like: Volume, dtype: np.dtype[Any], grid: dict[str, Any]) -> None:
    """An array of the same voxels in chunks of our own: made, or given the sections by which the source has grown."""
    if _document(files) is None:
        Volume.create(files.uri, shape=like.shape, dtype=dtype, voxel_nm=like.voxel_nm, **grid)
    elif Volume.open(files.uri).shape != like.shape:
        Volume.open(files.uri, writable=True).resize(like.shape)


def _put_level(files: Files, level: Volume, names: list[str]) -> None:
    """The metadata of a merged array: the source's byte for byte, but with named axes, as OME 0.5 demands."""
    for name in ("zarr.json",) if level.zarr_format == 3 else (".zarray", ".zattrs"):
        raw = level.files.read(name)
        if raw is not None and name == "zarr.json" and json.loads(raw).get("dimension_names") != names:
            raw = json.dumps(json.loads(raw) | {"dimension_names": names}, indent=2).encode()
        if raw is not None and raw != files.read(name):
            files.put(name, raw)


def _put_group(files: Files, form: int, attributes: Json, *, durable: bool = True) -> None:
    """durable: else whoever calls syncs it, together with others."""
    name, body = _group(form, attributes)
    put = files.keep if durable else files.lay
    reach("attrs", files.uri)
    if form == 2:
        put(".zattrs", json.dumps(attributes, indent=2).encode())
    if form == 3 or files.read(name) is None:
        put(name, body)


def _group(form: int, attributes: Json) -> tuple[str, bytes]:
    """The document that makes a group, its name and its text; of Zarr v2 the attributes lie beside it."""
    if form == 2:
        return ".zgroup", b'{"zarr_format": 2}'
    doc = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return "zarr.json", json.dumps(doc, indent=2).encode()


def _image(source: Volume) -> Image:
    """The image that the merged levels make up: in the source's order of axes, unless its chunks are written anew."""
    dims = ZYX_NAMES if source.foreign else source.layout.dims
    if source.image is None:
        return array_image(_version(source), "0", dims, source.voxel_nm)
    image = image_from(source.image, source.level, _version(source), source.voxel_nm)
    return flat_image(image, [v.path for v in image.levels]) if source.foreign else image


def _attributes(source: Volume, levels: bool, zmend: Json) -> Json:
    image = _image(source) if levels else flat_image(_image(source), [OVERLAY])
    return image_attributes(image) | {"zmend": zmend}


def _label_attributes(source: Volume, levels: bool, uncertain: bool) -> Json:
    image = _image(source)
    count = len(image.levels) if levels else 1  # OME: as many as the image has
    levels_at = flat_image(image, [str(i) for i in range(count)], "synthetic")
    return label_attributes(levels_at, uncertain=uncertain)


def _version(source: Volume) -> str:
    return "0.5" if source.zarr_format == 3 else "0.4"


def _about(source: Volume) -> Json:
    return {
        "uri": source.uri,
        "level": source.level,
        "voxel_nm": None if source.voxel_nm is None else list(source.voxel_nm),
        "fingerprint": source.fingerprint(),
        "identity": source.identity(),
    }


def _grid(source: Volume, chunk: int, shard: int | None) -> dict[str, Any]:
    if shard is None or source.zarr_format == 2:
        return {"chunks": (1, chunk, chunk), "shards": None}
    if shard % chunk:
        nearest = -(-shard // chunk) * chunk
        raise VolumeError(f"shards of {shard} px are not whole chunks of {chunk} px", do=f"make them {nearest} px")
    return {"chunks": (1, chunk, chunk), "shards": (1, shard, shard)}


# --- checking


def _at(out: str) -> Files:
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


def _outside(out: str, source: Volume) -> Files:
    """Where `out` lies, which must not touch the source's place."""
    files = _at(out)
    if files.overlaps(source.root):
        raise VolumeError(
            "the output lies in the source, or the source in the output",
            where=f"output {files.uri}, source {source.uri}",
            why="the source is never written",
            do="name another output",
        )
    return files


def _is_free(files: Files) -> bool:
    """Whether nothing lies there, or what a maker on an object store was killed over: `zmend` comes first there."""
    if files.local is not None:
        return not files.local.exists() or files.names() == []
    return next(files.walk(), None) is None or (not _is_whole(files) and _half_made(files))


def _is_whole(files: Files) -> bool:
    """Whether the group has its document. Locally a store appears whole, and one that lost it is a store still."""
    return files.local is not None or (files.stat("zarr.json") or files.stat(".zgroup")) is not None


def _half_made(files: Files) -> bool:
    zmend = files / "zmend"
    made = zmend.stat("zarr.json") or zmend.stat(".zgroup")
    return made is not None and next((zmend / "plans").walk(), None) is None


def _document(files: Files) -> bytes | None:
    return files.read("zarr.json") or files.read(".zarray")


def _said(out: str) -> Json:
    """What the store says in `zmend`. Raises VolumeError where `out` is something else."""
    try:
        said = read_attrs(out).get("zmend", {})
    except VolumeError:
        said = {}
    if said.get("schema") != SCHEMA:
        raise VolumeError(
            "something that is no zmend store is there already",
            where=out,
            why=f"its attributes do not say {SCHEMA}",
            do="name another output, or remove it yourself",
        )
    assert isinstance(said, dict)
    return said


def _check_source(files: Files, said: Json, source: Volume) -> None:
    was, now = said["source"], _about(source)
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


def _check_grid(out: str, grid: dict[str, Any]) -> None:
    _said(out)
    overlay = open_overlay(out)
    wanted = grid["chunks"], grid["shards"] or grid["chunks"]
    if (overlay.chunks, overlay.grain) != wanted:
        raise VolumeError(
            f"the store's overlay has chunks {overlay.chunks}, shards {overlay.grain}; asked for {wanted}",
            where=overlay.uri,
            why="slabs are whole shards of the overlay, and it is made once",
            do="keep the sizes that the store was made with, or name another output",
        )
