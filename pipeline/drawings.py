"""Drawings: what people have drawn in Neuroglancer and WEBKNOSSOS, as places in a volume. Text in, places out.

    neuroglancer   a state, or one annotation layer of it: points, boxes, ellipsoids, lines, in the layer's own units
    WEBKNOSSOS     an NML: nodes and user bounding boxes, in voxels of its `scale`; or the JSON of user bounding boxes

A point is its whole section; whatever has a size is the box around it. What is wrong there is the class that a name or
a description speaks of: `fold`, `crack near the soma`; else it is damaged.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ZYX = tuple[float, float, float]
NAVIGATION = ("navigation", "pose", "position", "voxelSize")  # of states from before 2019: nm of x, y, z
MOST = 1e15  # nm: beyond that it is no place


@dataclass(frozen=True, slots=True)
class Place:
    """What was drawn: (z, y, x), in nm, or in voxels where `nm` is not so."""

    low: ZYX
    high: ZYX
    nm: bool
    point: bool
    words: str  # that came with it, the nearest first
    source: str


class NotUnderstoodError(ValueError):
    """Says which part of a document is not as these programs write it."""


def is_nml(text: str) -> bool:
    """Whether it is XML."""
    return text.lstrip("\ufeff \t\r\n").startswith("<")


def is_drawn(document: Any) -> bool:
    """Whether a JSON document is one of these, rather than a list of sections."""
    return isinstance(document, dict) and any(k in document for k in ("layers", "annotations", "userBoundingBoxes"))


def drawn(document: Mapping[str, Any]) -> list[Place]:
    """The places in a JSON document. Raises NotUnderstoodError."""
    if "userBoundingBoxes" in document:
        return list(_each(document["userBoundingBoxes"], "userBoundingBoxes", _bounding_box))
    layers = document.get("layers", [document])
    if not isinstance(layers, list):
        raise NotUnderstoodError("`layers` is no list")
    return [place for layer in layers if isinstance(layer, dict) for place in _layer(layer, document)]


def nml(text: str) -> list[Place]:
    """The places in an NML. Raises NotUnderstoodError."""
    if re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):  # an NML has none; in others they can be bombs
        raise NotUnderstoodError("it has a DOCTYPE")
    try:
        root = ET.fromstring(text.lstrip("\ufeff \t\r\n"))
    except (ET.ParseError, ValueError) as error:
        raise NotUnderstoodError(f"it is no XML: {error}") from error
    if root.tag != "things":
        raise NotUnderstoodError(f"its root is <{root.tag}>, that of an NML is <things>")
    scale = root.find("parameters/scale")
    nm = None if scale is None else _numbers([scale.get(a) for a in "zyx"], "scale")
    boxes = _each(root.iterfind("parameters/userBoundingBox"), "userBoundingBox", lambda e: _nml_box(e, nm))
    return [*boxes, *_nodes(root, nm)]


def _each(items: Any, name: str, make: Any) -> Iterator[Place]:
    if isinstance(items, (str, Mapping)) or not isinstance(items, Iterable):
        raise NotUnderstoodError(f"`{name}` is no list")
    for n, item in enumerate(items, 1):
        try:
            yield make(item)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            why = error.args[0] if isinstance(error, NotUnderstoodError) else f"{type(error).__name__}: {error}"
            raise NotUnderstoodError(f"{name} {n}: {why}") from error


# --- neuroglancer


def _layer(layer: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[Place]:
    if "annotations" not in layer:
        return
    name, axes = str(layer.get("name", "")), _axes(layer, state)

    def place(item: Mapping[str, Any]) -> Place:
        low, high = _extent(item, axes)
        words = f"{item.get('description') or ''} {name}"
        return Place(low, high, True, item["type"] == "point", words, f"neuroglancer {name}".strip())

    yield from _each(layer["annotations"], f"annotation of layer '{name[:40]}'", place)


def _axes(layer: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    """For z, y and x: which coordinate it is, and how many nm its unit has."""
    source = layer.get("source")
    source = source[0] if isinstance(source, list) and source else source
    transform = source.get("transform") if isinstance(source, dict) else None
    spaces = [transform.get("outputDimensions") if isinstance(transform, dict) else None, state.get("dimensions")]
    dimensions = next((s for s in spaces if isinstance(s, dict) and s), None)
    try:
        if dimensions is None:
            sizes: Any = state
            for key in NAVIGATION:
                sizes = sizes[key]
            dimensions = {a: [float(n) * 1e-9, "m"] for a, n in zip("xyz", sizes, strict=True)}
        names = list(dimensions)
        found = {a: (names.index(a), float(dimensions[a][0]) * 1e9) for a in "zyx"}
        units = {dimensions[a][1] for a in "zyx"}
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise NotUnderstoodError("it does not say how large its units are: `dimensions` with x, y and z") from error
    if units != {"m"} or not all(math.isfinite(nm) and nm > 0 for _, nm in found.values()):
        raise NotUnderstoodError("its `dimensions` are not in metres")
    return found


def _extent(item: Mapping[str, Any], axes: Mapping[str, tuple[int, float]]) -> tuple[ZYX, ZYX]:
    def at(key: str) -> ZYX:
        return _numbers([item[key][axes[a][0]] * axes[a][1] for a in "zyx"], key)

    kind = item["type"]
    if kind == "point":
        return at("point"), at("point")
    if kind in ("axis_aligned_bounding_box", "line"):
        a, b = at("pointA"), at("pointB")
        return _zyx(map(min, a, b)), _zyx(map(max, a, b))
    if kind == "ellipsoid":
        sides = [(c - abs(r), c + abs(r)) for c, r in zip(at("center"), at("radii"), strict=True)]
        return _zyx(a for a, _ in sides), _zyx(b for _, b in sides)
    known = "point, line, axis_aligned_bounding_box, ellipsoid"
    raise NotUnderstoodError(f"its type is {str(kind)[:40]!r}; known are {known}")


# --- WEBKNOSSOS


def _bounding_box(item: Mapping[str, Any]) -> Place:
    box = item.get("boundingBox", item)
    low = _numbers(reversed(box["topLeft"]), "topLeft")
    size = _numbers([box[k] for k in ("depth", "height", "width")], "size")
    high = _zyx(map(sum, zip(low, size, strict=True)))
    return Place(low, high, False, False, str(item.get("name", "")), "WEBKNOSSOS")


def _nml_box(element: ET.Element, nm: ZYX | None) -> Place:
    low = _numbers([element.get(f"topLeft{a}") for a in "ZYX"], "topLeft")
    size = _numbers([element.get(k) for k in ("depth", "height", "width")], "size")
    high = _zyx(map(sum, zip(low, size, strict=True)))
    return Place(_scaled(low, nm), _scaled(high, nm), nm is not None, False, element.get("name", ""), "WEBKNOSSOS")


def _nodes(root: ET.Element, nm: ZYX | None) -> Iterator[Place]:
    comments = {c.get("node"): c.get("content", "") for c in root.iterfind("comments/comment")}
    for thing in root.iterfind("thing"):
        words = thing.get("name", "")

        def node(element: ET.Element, words: str = words) -> Place:
            # A node sits on a voxel, of which the middle is meant.
            at = _zyx(v + 0.5 for v in _numbers([element.get(a) for a in "zyx"], "node"))
            said = f"{comments.get(element.get('id'), '')} {words}"
            return Place(_scaled(at, nm), _scaled(at, nm), nm is not None, True, said, "WEBKNOSSOS")

        yield from _each(thing.iterfind("nodes/node"), "node", node)


def _scaled(at: ZYX, nm: ZYX | None) -> ZYX:
    return at if nm is None else _zyx(a * n for a, n in zip(at, nm, strict=True))


def _numbers(values: Iterable[Any], name: str) -> ZYX:
    try:
        found = _zyx(float(v) for v in values)
    except (TypeError, ValueError, OverflowError):
        found = (math.nan,) * 3
    if not all(math.isfinite(v) and abs(v) < MOST for v in found):
        raise NotUnderstoodError(f"{name} is no place")
    return found


def _zyx(values: Iterable[Any]) -> ZYX:
    z, y, x = values
    return z, y, x


# --- to flags


def rows(
    places: Sequence[Place], shape: Sequence[int], voxel_nm: ZYX | None, classes: Sequence[str]
) -> list[dict[str, object]]:
    """Rows of a flags file. What reaches beyond the volume is cut; what lies outside altogether is left as it is, to be
    refused. Points that say the same of a section are one flag. Raises NotUnderstoodError without a voxel size.
    """
    once: dict[tuple[object, ...], dict[str, object]] = {}
    for place in places:
        row = _row(place, shape, voxel_nm, classes)
        once.setdefault(tuple(value for key, value in row.items() if key not in ("source", "note")), row)
    return list(once.values())


def _row(place: Place, shape: Sequence[int], voxel_nm: ZYX | None, classes: Sequence[str]) -> dict[str, object]:
    if place.nm and voxel_nm is None:
        raise NotUnderstoodError("it speaks in nm, and the voxel size of the volume is not known")
    nm = voxel_nm if place.nm and voxel_nm else (1.0, 1.0, 1.0)
    spans = [_span(a / n, b / n, size) for a, b, n, size in zip(place.low, place.high, nm, shape, strict=True)]
    row: dict[str, object] = {"z_start": spans[0][0], "z_stop": spans[0][1], "class": _class(place.words, classes)}
    if not place.point and spans[1:] != [(0, n) for n in shape[1:]]:
        row |= {f"{a}_{end}": spans[i][e] for i, a in ((1, "y"), (2, "x")) for e, end in enumerate(("start", "stop"))}
    return row | {"source": place.source, "note": place.words.strip()}


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    """The voxels that are touched, at least one; a ten-thousandth of a voxel is rounding."""
    start = math.floor(low + 1e-4)
    stop = max(math.ceil(high - 1e-4), start + 1)
    return (max(0, start), min(size, stop)) if start < size and stop > 0 else (start, stop)


def _class(words: str, classes: Sequence[str]) -> str:
    spoken = re.findall(r"[a-z_]+", words.lower())
    return next((c for word in spoken for c in classes if word in (c, f"{c}s")), "damaged")
