"""Metadata documents as values: what OME-Zarr groups and Zarr arrays say about themselves. Dicts in, dicts out; no IO.

Two halves. `Image` is the OME-NGFF part (0.4 in Zarr v2, 0.5 in Zarr v3): axes, levels, voxel sizes, documents of the
output store. `Layout` is the array's own document: stored axes, chunks, shards, and the names of the chunk objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import VolumeError

Json = dict[str, Any]
Voxel = tuple[float, float, float]
ZYX_NAMES = ("z", "y", "x")

# UDUNITS-2 names that OME-NGFF allows, and the short forms that real stores carry. Nanometres in one unit.
NANOMETRES = {
    **dict.fromkeys(("picometer", "pm"), 1e-3),
    **dict.fromkeys(("angstrom", "Å", "A"), 0.1),
    **dict.fromkeys(("nanometer", "nanometre", "nm"), 1.0),
    **dict.fromkeys(("micrometer", "micrometre", "micron", "um", "µm", "μm"), 1e3),
    **dict.fromkeys(("millimeter", "millimetre", "mm"), 1e6),
    **dict.fromkeys(("centimeter", "centimetre", "cm"), 1e7),
    **dict.fromkeys(("meter", "metre", "m"), 1e9),
}

LABEL_CLASSES = {
    1: ("section synthesised", (230, 80, 40, 255)),
    2: ("region repaired", (240, 190, 40, 255)),
    3: ("feather band", (60, 170, 220, 255)),
    4: ("quarantined or not restorable, source kept", (150, 60, 200, 255)),
    5: ("restored, but the ensemble disagrees: do not trust", (255, 0, 140, 255)),
}


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of an image."""

    path: str
    scale: tuple[float, ...]  # per stored axis, in that axis' own unit, the image-wide transformation included
    transformations: tuple[Json, ...]  # as the document has them, for copying


@dataclass(frozen=True, slots=True)
class Image:
    """An OME multiscale image: its first `multiscales` entry."""

    version: str
    axes: tuple[Json, ...]
    levels: tuple[Level, ...]
    transformations: tuple[Json, ...] = ()  # image-wide
    name: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Axis names in stored order, lower case."""
        return tuple(str(a["name"]).lower() for a in self.axes)

    def voxel_nm(self, level: int) -> Voxel | None:
        """(z, y, x) nanometres of one voxel; None where an axis has no length unit that is known."""
        sizes = dict(zip(self.names, zip(self.levels[level].scale, self.axes, strict=True), strict=False))
        units = [NANOMETRES.get(sizes[n][1].get("unit", "")) if n in sizes else None for n in ZYX_NAMES]
        z, y, x = (None if u is None else sizes[n][0] * u for n, u in zip(ZYX_NAMES, units, strict=True))
        return None if z is None or y is None or x is None else (z, y, x)

    def shift(self, level: int) -> tuple[float, ...]:
        """Centre of voxel 0, per stored axis in that axis' own unit."""
        own, wide = self.levels[level].transformations, self.transformations
        n = len(self.axes)
        parts = zip(_scale(own, n, "translation"), _scale(wide, n), _scale(wide, n, "translation"), strict=True)
        return tuple(here * around + there for here, around, there in parts)

    def listing(self) -> str:
        """The levels with their voxel sizes, for error messages: `0 (path s0, 40 x 4 x 4 nm), 1 ...`."""
        return ", ".join(f"{i} (path {v.path}, {nm_text(self.voxel_nm(i))})" for i, v in enumerate(self.levels))


def nm_text(voxel_nm: Voxel | None) -> str:
    """`40 x 4 x 4 nm (z, y, x)`, or that it is not known."""
    return "voxel size unknown" if voxel_nm is None else " x ".join(f"{v:g}" for v in voxel_nm) + " nm zyx"


def parse_image(attributes: Mapping[str, Any]) -> Image | None:
    """The image that group attributes describe (0.4: `multiscales`; 0.5: `ome.multiscales`), or None.

    Raises VolumeError where `multiscales` is there but not to be understood.
    """
    ome = attributes.get("ome", {})
    entries = ome.get("multiscales") or attributes.get("multiscales")
    if not entries:
        return None
    try:
        if not entries[0]["datasets"]:
            raise ValueError("datasets: there are none")
        image = _image(entries[0], str(ome.get("version") or entries[0].get("version", "0.4")))
        _ = image.names  # of which an axis may have none
        return image
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise VolumeError(
            "the OME metadata cannot be understood",
            why=f"multiscales[0] lacks or garbles {error}",
            do="validate it with `ome-zarr-models validate`, or name the array inside the group and give voxel_nm",
        ) from error


def _image(entry: Json, version: str) -> Image:
    default = [{"name": n} for n in "tczyx"]  # before 0.3 axes were not written, and always these five
    axes = tuple({"name": a} if isinstance(a, str) else dict(a) for a in entry.get("axes", default))
    wide = tuple(entry.get("coordinateTransformations", ()))
    around = _scale(wide, len(axes))
    levels = []
    for dataset in entry["datasets"]:
        own = tuple(dataset.get("coordinateTransformations", ()))
        scale = tuple(a * b for a, b in zip(_scale(own, len(axes)), around, strict=True))
        levels.append(Level(str(dataset["path"]).strip("/"), scale, own))
    return Image(version, axes, tuple(levels), wide, str(entry.get("name", "")))


def _scale(transformations: Sequence[Json], axes: int, kind: str = "scale") -> tuple[float, ...]:
    for t in transformations:
        if t["type"] == kind:
            return tuple(float(v) for v in t[kind])
    return (1.0 if kind == "scale" else 0.0,) * axes


def array_image(version: str, path: str, dims: Sequence[str], voxel_nm: Voxel | None) -> Image:
    """A one-level image of an array with axes `dims`; without a voxel size its scale is 1 and it has no unit."""
    scale = _along(dims, voxel_nm or (1.0, 1.0, 1.0), 1.0)
    return Image(version, _axes(dims, voxel_nm), (Level(path, scale, ({"type": "scale", "scale": list(scale)},)),))


def flat_image(image: Image, paths: Sequence[str], name: str = "") -> Image:
    """The image without axes other than z, y, x, in this order; its first levels, at `paths`."""
    at = [image.names.index(n) for n in ZYX_NAMES]
    levels = []
    for i, path in enumerate(paths):
        scale, shift = (tuple(of[a] for a in at) for of in (image.levels[i].scale, image.shift(i)))
        steps: list[Json] = [{"type": "scale", "scale": list(scale)}]
        steps += [{"type": "translation", "translation": list(shift)}] if any(shift) else []
        levels.append(Level(path, scale, tuple(steps)))
    return Image(image.version, tuple(image.axes[a] for a in at), tuple(levels), (), name)


def image_from(image: Image, first: int, version: str, voxel_nm: Voxel | None) -> Image:
    """The same image from level `first` on, as `version`, its levels renamed 0, 1, ...

    Transformations stay as written, unless `voxel_nm` says otherwise of level `first`: then every level is scaled anew.
    """
    told = image.voxel_nm(first) != voxel_nm
    axes = _axes(image.names, voxel_nm) if told else tuple(map(_typed, image.axes))
    steps = [_scaled(image, v, first, voxel_nm) if told else _written(v) for v in image.levels[first:]]
    levels = tuple(Level(str(i), _scale(s, len(axes)), s) for i, s in enumerate(steps))
    return Image(version, axes, levels, () if told else image.transformations, image.name)


def _written(level: Level) -> tuple[Json, ...]:
    return level.transformations or ({"type": "scale", "scale": list(level.scale)},)  # 0.4 and 0.5 demand a scale


def _scaled(image: Image, level: Level, first: int, voxel_nm: Voxel | None) -> tuple[Json, ...]:
    base = _along(image.names, voxel_nm or (1.0, 1.0, 1.0), 1.0)
    factors = zip(base, level.scale, image.levels[first].scale, strict=True)
    return ({"type": "scale", "scale": [b * own / at for b, own, at in factors]},)


def _along(dims: Sequence[str], zyx: Voxel, other: float) -> tuple[float, ...]:
    named = dict(zip(ZYX_NAMES, zyx, strict=True))
    return tuple(named.get(d, other) for d in dims)


def _axes(dims: Sequence[str], voxel_nm: Voxel | None) -> tuple[Json, ...]:
    unit = {} if voxel_nm is None else {"unit": "nanometer"}
    return tuple(_typed({"name": d, **(unit if d in ZYX_NAMES else {})}) for d in dims)


def _typed(axis: Json) -> Json:
    kind = {"t": "time", "c": "channel"}.get(str(axis["name"]).lower(), "space")
    return {"type": kind, **axis}


def image_attributes(image: Image) -> Json:
    """Group attributes that describe `image` in its own version."""
    entry: Json = {"axes": list(image.axes), "datasets": [_dataset(v) for v in image.levels]}
    entry |= {"name": image.name} if image.name else {}
    entry |= {"coordinateTransformations": list(image.transformations)} if image.transformations else {}
    return _wrapped(image.version, {"multiscales": [_versioned(image.version, entry)]})


def label_attributes(image: Image, *, uncertain: bool = False) -> Json:
    """Group attributes of the label image `synthetic`: the image's own, with a name and a colour for every class.

    uncertain: whether class 5 occurs, as it does only in stores that tell the spread of an ensemble.
    """
    classes = {v: said for v, said in LABEL_CLASSES.items() if uncertain or v < 5}
    about: Json = {
        "colors": [{"label-value": v, "rgba": list(rgba)} for v, (_, rgba) in classes.items()],
        "properties": [{"label-value": v, "class": text} for v, (text, _) in classes.items()],
        "source": {"image": "../../"},
    }
    made = image_attributes(image)
    inner = made.get("ome", made)
    inner["image-label"] = _versioned(image.version, about)
    return made


def labels_attributes(version: str, names: Sequence[str]) -> Json:
    """Attributes of the group `labels`, which lists its label images."""
    return _wrapped(version, {"labels": list(names)})


def _dataset(level: Level) -> Json:
    return {"path": level.path, "coordinateTransformations": list(level.transformations)}


def _versioned(version: str, entry: Json) -> Json:
    return {"version": version, **entry} if version == "0.4" else entry  # 0.5 says it once, beside multiscales


def _wrapped(version: str, attributes: Json) -> Json:
    return attributes if version == "0.4" else {"ome": {"version": version, **attributes}}
