"""Foundation: a store is made, by one process and before any chunk, and brought up to a source that has grown.

Writes metadata documents only; arrays are made by `Volume.create`, so zarr is not imported here.
"""

from __future__ import annotations

import glob
import json
import shutil
from typing import Any, Literal
from uuid import uuid4

import numpy as np

from pipeline.claim import SCHEMA, check_grid, check_source, outside, said_by, told_of
from pipeline.errors import VolumeError
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
from pipeline.store import (
    DOCUMENTS,
    LABELS,
    OVERLAY,
    UNCERTAINTY,
    at,
    document_of,
    group_document,
    has_uncertainty,
    is_free,
    open_overlay,
    put_group,
    read_attrs,
)
from pipeline.volume import Volume

Mode = Literal["volume", "overlay"]
SPREAD: Json = {
    "grey_levels_per_count": GREY_PER_COUNT,
    "meaning": "standard deviation of the ensemble, in grey levels of 0..255 (of the recipe's intensity window), "
    "rounded up; 0 where nothing was restored, 255 is that or more",
}


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
    files = outside(out, source)
    grid = _grid(source, chunk_yx, shard_yx)
    build = _build if files.local is not None else _build_in_place
    if not is_free(files) or not build(files, source, mode, grid, extra, spread):
        check_grid(out, grid)
        adopt(out, source, mode=mode, spread=spread)


def adopt(out: str, source: Volume, *, mode: Mode, spread: bool = False) -> None:
    """Check that the store is of `source`; extend it to a source that has grown; add the arrays it lacks.

    A store that has merged levels keeps them in either mode. Raises VolumeError for a store of another source.
    """
    files, said = outside(out, source), said_by(out)
    check_source(files, said, source)
    levels = mode == "volume" or document_of(files / "0") is not None
    overlay = open_overlay(out)
    grid = {"chunks": overlay.chunks, "shards": overlay.grain if overlay.layout.index_at else None}
    _put_arrays(files, source, levels, grid, spread or has_uncertainty(out))
    attributes = read_attrs(out) | _attributes(source, levels, said | {"source": told_of(source)})
    if attributes != read_attrs(out) or misdescribed(out, source):
        put_group(files / "labels", source.zarr_format, labels_attributes(_version(source), ["synthetic"]))
        put_group(files / LABELS, source.zarr_format, _label_attributes(source, levels, has_uncertainty(out)))
        put_group(files, source.zarr_format, attributes)


def drop_uncertainty(out: str, source: Volume, *, mode: Mode) -> None:
    """Remove the spread from a store whose recipe no longer asks for it; no record may tell of its chunks any more."""
    if has_uncertainty(out):
        # What is half removed must be an array still: then it is removed again.
        (at(out) / UNCERTAINTY).clear(last=("zarr.json", ".zarray"))
        adopt(out, source, mode=mode)  # the labels' classes


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


def misdescribed(out: str, source: Volume) -> list[str]:
    """The groups of a store whose OME attributes are not what they must be for this source."""
    levels = document_of(at(out) / "0") is not None
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
        put_group(aside, source.zarr_format, attributes, durable=False)
        aside.sync([s.key for s in aside.walk()])
        temporary.rename(path)
    except (OSError, VolumeError):  # also where who was faster has swept away what is half made here
        if is_free(files):
            raise
        return False
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    Files(str(path.parent)).sync([path.name])
    return True


def _build_in_place(files: Files, source: Volume, mode: Mode, grid: dict[str, Any], extra: Json, spread: bool) -> bool:
    """On an object store: the group's own document, without which there is no store, comes last. Killed before, what
    lies there is metadata alone, and is made anew. False where someone else was faster."""
    for key in [s.key for s in files.walk() if s.key.rpartition("/")[2] in DOCUMENTS]:
        files.delete(key)
    attributes = _fill(files, source, mode, grid, extra, spread)
    name, body = group_document(source.zarr_format, attributes)
    if source.zarr_format == 2:
        files.put(".zattrs", json.dumps(attributes, indent=2).encode())
    return files.create(name, body)


def _fill(files: Files, source: Volume, mode: Mode, grid: dict[str, Any], extra: Json, spread: bool) -> Json:
    """Make all but the group itself, whose attributes are returned; not durable yet."""
    form, levels = source.zarr_format, mode == "volume"
    put_group(files / "zmend", form, {}, durable=False)
    put_group(files / "labels", form, labels_attributes(_version(source), ["synthetic"]), durable=False)
    put_group(files / LABELS, form, _label_attributes(source, levels, spread), durable=False)
    _put_arrays(files, source, levels, grid, spread)
    zmend = {"schema": SCHEMA, "source": told_of(source), **extra}
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
    if document_of(files) is None:
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


def _grid(source: Volume, chunk: int, shard: int | None) -> dict[str, Any]:
    if shard is None or source.zarr_format == 2:
        return {"chunks": (1, chunk, chunk), "shards": None}
    if shard % chunk:
        nearest = -(-shard // chunk) * chunk
        raise VolumeError(f"shards of {shard} px are not whole chunks of {chunk} px", do=f"make them {nearest} px")
    return {"chunks": (1, chunk, chunk), "shards": (1, shard, shard)}
