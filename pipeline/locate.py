"""Locate: which array an address means, and the image that it is a level of."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from pipeline.errors import VolumeError
from pipeline.files import Files
from pipeline.foreign import find, layout_as
from pipeline.layout import Layout, parse_layout
from pipeline.ome import Image, Json, Voxel, parse_image


@dataclass(frozen=True, slots=True)
class Place:
    """An array that was found, and the image that it is a level of."""

    files: Files
    doc: Json
    attributes: Json
    image: Image | None = None
    group: Files | None = None
    level: int = 0
    foreign: str = ""  # precomputed | n5; Zarr, if empty

    @property
    def voxel_nm(self) -> Voxel | None:
        if self.image is not None:
            return self.image.voxel_nm(self.level)
        said = self.attributes.get("zmend", {}).get("voxel_nm")
        try:
            return None if said is None else (float(said[0]), float(said[1]), float(said[2]))
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise VolumeError(
                "the array's voxel size cannot be understood",
                where=self.files.uri,
                why=f"its attributes say {said!r:.80}",
                do="name it in zmend.yaml: volume: {voxel_size_nm: [z, y, x]}",
            ) from error


def node_at(files: Files) -> tuple[Json, Json] | None:
    """The metadata document of a group or array, and its attributes; None where there is neither."""
    if (doc := _json(files, "zarr.json")) is not None:
        return doc, _attributes(doc.get("attributes", {}), files)
    doc = _json(files, ".zarray") or _json(files, ".zgroup")
    return None if doc is None else (doc, _attributes(_json(files, ".zattrs") or {}, files))


def _attributes(said: Any, files: Files) -> Json:
    """Attributes, of which `zmend` and `ome` are tables if they are there."""
    if not isinstance(said, dict) or not all(isinstance(said.get(k, {}), dict) for k in ("zmend", "ome")):
        why = "attributes, and zmend and ome in them, are tables of names and values"
        raise VolumeError("the attributes cannot be understood", where=files.uri, why=why, do="restore this file")
    return said


def _json(files: Files, key: str) -> Json | None:
    raw = files.read(key)
    if raw is None:
        return None
    try:
        doc = json.loads(raw)
        assert isinstance(doc, dict)
        return doc
    except (ValueError, AssertionError, RecursionError) as error:
        where = f"{files.uri}/{key}"
        raise VolumeError("metadata is not JSON", where=where, why=str(error), do="restore this file") from error


def locate(files: Files, level: int) -> Place:
    """The array at an address, or the given level of the image there. Raises VolumeError that says what is there."""
    node = node_at(files)
    if node is None:
        return _foreign(files, level)
    doc, attributes = node
    if "shape" in doc:
        return _in_image(Place(files, doc, attributes), level)
    image = parse_image(attributes)
    if image is None:
        _no_image(files)
    if not 0 <= level < len(image.levels):
        raise VolumeError(
            f"there is no level {level}", where=files.uri, do=f"name one of the levels there are: {image.listing()}"
        )
    array = files / image.levels[level].path
    found = node_at(array)
    if found is None or "shape" not in found[0]:
        raise VolumeError(f"level {level} is not there", where=array.uri, why="the group lists it", do="fetch it again")
    return Place(array, *found, image, files, level)


def _foreign(files: Files, level: int) -> Place:
    """What lies there and is not Zarr."""
    found = find(files, level)
    if found is None:
        _not_zarr(files)
    return Place(found.files, found.doc, found.attributes, found.image, found.group, found.level, found.kind)


def _in_image(alone: Place, level: int) -> Place:
    """The array again, as a level of the image that a group above it describes, if one does."""
    place = next(filter(None, (_as_level(alone, up) for up in (1, 2, 3))), alone)
    if level not in (0, place.level):
        raise VolumeError(
            f"level {level} of an array that has no levels",
            where=alone.files.uri,
            do="name the OME-Zarr group above the array, or leave level out",
        )
    return place


def _as_level(alone: Place, up: int) -> Place | None:
    parts = alone.files.uri.split("/")
    above, path = "/".join(parts[:-up]), "/".join(parts[-up:])
    if not above or above.endswith(("/", ":")):
        return None
    group = Files(above)
    node = node_at(group)
    image = parse_image(node[1]) if node else None
    paths = [v.path for v in image.levels] if image else []
    return replace(alone, image=image, group=group, level=paths.index(path)) if path in paths else None


def layout_of(place: Place, *, mask: bool = False) -> Layout:
    """How the array lies in its store; a mask may be of any integer type. Raises VolumeError."""
    try:
        names = place.image.names if place.image else None
        return layout_as(place.foreign, parse_layout(place.doc, place.attributes, names, mask=mask), place.doc)
    except VolumeError as error:
        error.where = error.where or place.files.uri
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        where, do = place.files.uri, "restore the array's own document (zarr.json or .zarray)"
        raise VolumeError("the array's metadata cannot be understood", where=where, why=repr(error), do=do) from error


def _not_zarr(files: Files) -> NoReturn:
    names = files.names()
    if files.stat("") is not None and names is None and not files.web:
        what, do = "this is a file, not a Zarr volume", "convert it to Zarr, for example with tifffile and zarr"
    elif names is None:
        what, do = "there is no Zarr volume here", "check the path"
    elif not names:
        what, do = "this folder is empty", "check the path"
    else:
        inner = [n for n in names if (files.local is None or (files.local / n).is_dir()) and node_at(files / n)]
        what = "this folder is not Zarr: it has neither zarr.json nor .zarray nor .zgroup "
        do = f"name one of these inside it: {', '.join(inner)}" if inner else "check the path"
    raise VolumeError(what, where=files.uri, do=do)


def _no_image(files: Files) -> NoReturn:
    nodes = {n: node_at(files / n) for n in files.names() or ()}
    inner = [f"{n} {node[0]['shape']}" for n, node in nodes.items() if node and "shape" in node[0]]
    raise VolumeError(
        "this group is not an OME-Zarr image: it has no multiscales",
        where=files.uri,
        do=f"name one of its arrays: {', '.join(inner)}" if inner else "name an array inside it",
    )
