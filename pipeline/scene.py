"""Scene: what Neuroglancer is to show of a store, as its JSON state. Values in, a document out; no IO.

Left the source under the mask of what is synthetic, right what was restored; xy above, xz below; a box round each
defect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.box import ZYX
from pipeline.flags import Flag
from pipeline.ome import LABEL_CLASSES, ZYX_NAMES, Json, Voxel
from pipeline.volume import Volume

LISTED = 5000  # defects; a state is one document, and the list is walked by hand
XYZ = ZYX_NAMES[::-1]  # the order in which Neuroglancer shows axes
HALF = 0.5
KINDS = ("precomputed", "n5", "zarr", "zarr2", "zarr3")  # that an address may name
COUNTS = 60  # of the spread, that are drawn opaque
GREY = "#uicontrol invlerp normalized\nvoid main() {\n  emitGrayscale(normalized());\n}\n"
SPARSE = (  # what was not restored is absent, and reads as 0
    "#uicontrol invlerp normalized\nvoid main() {\n  if (toRaw(getDataValue()) == 0u) {\n    emitTransparent();\n"
    "  } else {\n    emitGrayscale(normalized());\n  }\n}\n"
)
SPREAD = "#uicontrol invlerp normalized\nvoid main() {\n  emitRGBA(vec4(1.0, 0.0, 0.55, normalized()));\n}\n"


@dataclass(frozen=True, slots=True)
class Parts:
    """All that a scene is made of; addresses as `address` makes them."""

    dimensions: Json
    shape: ZYX
    source: Json | None  # None: nobody who sees the scene can reach it
    restored: Json
    merged: bool  # whether `restored` is the whole volume, or restored sections alone
    labels: Json
    uncertainty: Json | None
    window: tuple[float, float] | None  # stored values that are shown black and white; None: all of the type
    defects: tuple[Flag, ...]
    origin: Voxel = (0.0, 0.0, 0.0)  # where the middle of voxel 0 is shown, (z, y, x)


def dimensions(volume: Volume, voxel_nm: Voxel | None) -> Json:
    """x, y, z and the size of a voxel of this level, as Neuroglancer writes it: `{"x": [4.6e-9, "m"], ...}`."""
    if voxel_nm is not None:
        return {name: [nm * 1e-9, "m"] for name, nm in zip(XYZ, voxel_nm[::-1], strict=True)}
    if volume.image is None:
        return {name: [1, ""] for name in XYZ}
    scale = dict(zip(volume.image.names, volume.image.levels[volume.level].scale, strict=True))
    return {name: [scale[name], ""] for name in XYZ}


def address(volume: Volume, at: str, sizes: Json) -> Json:
    """The image or array that lies at the URL `at`, as a data source. `sizes`: its `dimensions`, which are told where
    its own metadata do not, or tell others. An `at` that names its kind (`precomputed://…`) is taken as it is, but
    that precomputed is moved to where images lie."""
    named = next((kind for kind in KINDS if at.startswith(f"{kind}://")), "")
    kind = named or volume.foreign or f"zarr{volume.zarr_format}"
    here = {"url": at if named else f"{kind}://{at.rstrip('/')}/"}
    own = None if volume.image is None else volume.image.voxel_nm(volume.level)
    cornered = kind == "precomputed" or kind == volume.foreign
    if not cornered and (named or (volume.image is not None and dimensions(volume, own) == sizes)):
        return here
    dims = XYZ if kind == "precomputed" else volume.layout.dims
    both = {k: _finest(volume, sizes, dims) for k in ("inputDimensions", "outputDimensions")}
    return here | {"transform": both | (_moved(volume, dims) if cornered or not volume.image else {})}


def origin(volume: Volume) -> Voxel:
    """Where Neuroglancer has the middle of an image's first voxel: (z, y, x), in voxels of this level."""
    if volume.image is None:
        return 0.0, 0.0, 0.0
    scale, shift = volume.image.levels[volume.level].scale, volume.image.shift(volume.level)
    z, y, x = (shift[i] / scale[i] for i in map(volume.image.names.index, ZYX_NAMES))
    return z, y, x


def _moved(volume: Volume, dims: Sequence[str]) -> Json:
    """Neuroglancer takes a coordinate for the middle of a voxel in OME images, and for its corner in all others."""
    factors = _factors(volume)
    shift = {d: -HALF / factors.get(d, 1.0) for d in ZYX_NAMES}
    return {"matrix": [[*(float(a == b) for b in dims), shift.get(a, 0.0)] for a in dims]}


def _finest(volume: Volume, sizes: Json, dims: Sequence[str]) -> Json:
    """The sizes that make those of this level out of the image's finest, which is what a transform speaks of."""
    factors = _factors(volume)
    return {d: [sizes[d][0] * factors.get(d, 1.0), sizes[d][1]] if d in sizes else [1, ""] for d in dims}


def _factors(volume: Volume) -> dict[str, float]:
    """How large a voxel of the image's finest level is, in voxels of this one; empty of an array alone."""
    if volume.image is None:
        return {}
    finest, this = (volume.image.levels[i].scale for i in (0, volume.level))
    return {d: finest[i] / this[i] for i, d in enumerate(volume.image.names)}


def scene(parts: Parts) -> Json:
    """The state: layers, panels, and the first defect in the middle."""
    layers = [
        _image("source", parts.source, GREY, _range(parts)) if parts.source else None,
        _image("restored", parts.restored, GREY if parts.merged else SPARSE, _range(parts)),
        _labels(parts.labels),
        _spread(parts.uncertainty) if parts.uncertainty else None,
        _defects(parts),
    ]
    return {
        "dimensions": parts.dimensions,
        "displayDimensions": list(XYZ),
        "position": centre(parts.defects[0], parts) if parts.defects else _beside([n / 2 for n in parts.shape], parts),
        "crossSectionScale": max(0.25, min(8.0, max(parts.shape[1:]) / 600)),
        "layers": [layer for layer in layers if layer],
        "selectedLayer": {"layer": "defects", "visible": True, "size": 320},
        "layout": _layout(parts),
    }


def centre(flag: Flag, parts: Parts) -> list[float]:
    """The middle of a defect, (x, y, z), in one of its sections."""
    return _beside([(a + b - 1) // 2 for a, b in zip(flag.box.start, flag.box.stop, strict=True)], parts)


def _beside(zyx: Sequence[float], parts: Parts) -> list[float]:
    """A place among the voxels, (x, y, z) as Neuroglancer counts it: without an origin, whole numbers are middles."""
    return [float(a + o) for a, o in zip(zyx, parts.origin, strict=True)][::-1]


def _layout(parts: Parts) -> Json:
    below = [] if parts.merged or not parts.source else ["source"]  # an overlay alone has holes
    left = [*(["source"] if parts.source else []), "synthetic", "defects"]
    right = [*below, "restored", *(["uncertainty"] if parts.uncertainty else []), "defects"]
    rows = [
        {"type": "row", "flex": flex, "children": [_panel(left, plane), _panel(right, plane)]}
        for plane, flex in (("xy", 3), ("xz", 2))
    ]
    return {"type": "column", "children": rows}


def _panel(layers: list[str], plane: str) -> Json:
    return {"type": "viewer", "layers": layers, "layout": plane}


def _range(parts: Parts) -> Json:
    return {} if parts.window is None else {"normalized": {"range": list(parts.window)}}


def _image(name: str, source: Json, shader: str, controls: Json) -> Json:
    return {
        "type": "image", "name": name, "source": source, "shader": shader, "shaderControls": controls, "opacity": 1,
        "blend": "default",
    }  # fmt: skip


def _labels(source: Json) -> Json:
    return {
        "type": "segmentation", "name": "synthetic", "source": source, "selectedAlpha": 0.35, "notSelectedAlpha": 0,
        "segments": [str(v) for v in LABEL_CLASSES],
        "segmentColors": {str(v): "#{:02x}{:02x}{:02x}".format(*rgba[:3]) for v, (_, rgba) in LABEL_CLASSES.items()},
    }  # fmt: skip


def _spread(source: Json) -> Json:
    made = _image("uncertainty", source, SPREAD, {"normalized": {"range": [0, COUNTS]}})
    return made | {"opacity": 0.7, "visible": False}  # it hides tissue: a click on its name shows it


def _defects(parts: Parts) -> Json:
    return {
        "type": "annotation", "name": "defects", "tab": "annotations", "annotationColor": "#ffd400",
        "source": {"url": "local://annotations", "transform": {"outputDimensions": parts.dimensions}},
        "annotations": [_box(n, flag, parts) for n, flag in enumerate(parts.defects[:LISTED], 1)],
    }  # fmt: skip


def _box(number: int, flag: Flag, parts: Parts) -> dict[str, Any]:
    corners = (_beside([v - HALF for v in corner], parts) for corner in (flag.box.start, flag.box.stop))
    return {
        "type": "axis_aligned_bounding_box", "id": f"defect-{number}", "description": _words(number, flag),
        **dict(zip(("pointA", "pointB"), corners, strict=True)),
    }  # fmt: skip


def _words(number: int, flag: Flag) -> str:
    z0, z1 = flag.box.start[0], flag.box.stop[0]
    sections = f"section {z0}" if z1 == z0 + 1 else f"sections {z0}–{z1 - 1}"
    return ", ".join(filter(None, (f"{number} {flag.kind}", sections, flag.source, flag.note)))


def shown(flags: Sequence[Flag]) -> tuple[Flag, ...]:
    """The defects among flags, in the order of the stack."""
    return tuple(sorted((f for f in flags if f.restorable), key=lambda f: f.box))
