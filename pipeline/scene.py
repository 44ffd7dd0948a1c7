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
    its own metadata do not, or tell others. An `at` that names its kind (`precomputed://…`) is taken as it is."""
    if any(at.startswith(f"{kind}://") for kind in ("precomputed", "n5", "zarr", "zarr2", "zarr3")):
        return {"url": at}
    here = {"url": f"zarr{volume.zarr_format}://{at.rstrip('/')}/"}
    own = None if volume.image is None else volume.image.voxel_nm(volume.level)
    if volume.image is not None and dimensions(volume, own) == sizes:
        return here
    both = {k: _finest(volume, sizes) for k in ("inputDimensions", "outputDimensions")}
    return here | {"transform": both | ({} if volume.image else _moved(volume))}


def _moved(volume: Volume) -> Json:
    """Neuroglancer takes a coordinate for the middle of a voxel in OME images, and for its corner in arrays alone."""
    dims = volume.layout.dims
    shift = dict.fromkeys(ZYX_NAMES, -HALF)
    return {"matrix": [[*(float(a == b) for b in dims), shift.get(a, 0.0)] for a in dims]}


def _finest(volume: Volume, sizes: Json) -> Json:
    """The sizes that make those of this level out of the image's finest, which is what a transform speaks of."""
    levels = volume.image.levels if volume.image else ()
    factors = {
        name: levels[0].scale[i] / levels[volume.level].scale[i] if levels else 1.0
        for i, name in enumerate(volume.layout.dims)
    }
    return {
        name: [sizes[name][0] * factors[name], sizes[name][1]] if name in sizes else [1, ""]
        for name in volume.layout.dims
    }


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
        "position": centre(parts.defects[0]) if parts.defects else [n / 2 for n in parts.shape[::-1]],
        "crossSectionScale": max(0.25, min(8.0, max(parts.shape[1:]) / 600)),
        "layers": [layer for layer in layers if layer],
        "selectedLayer": {"layer": "defects", "visible": True, "size": 320},
        "layout": _layout(parts),
    }


def centre(flag: Flag) -> list[float]:
    """The middle of a defect, (x, y, z), in one of its sections: whole numbers are the middles of voxels."""
    return [float((a + b - 1) // 2) for a, b in zip(flag.box.start, flag.box.stop, strict=True)][::-1]


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
        "annotations": [_box(n, flag) for n, flag in enumerate(parts.defects[:LISTED], 1)],
    }  # fmt: skip


def _box(number: int, flag: Flag) -> dict[str, Any]:
    return {
        "type": "axis_aligned_bounding_box", "id": f"defect-{number}", "description": _words(number, flag),
        "pointA": [v - HALF for v in flag.box.start[::-1]], "pointB": [v - HALF for v in flag.box.stop[::-1]],
    }  # fmt: skip


def _words(number: int, flag: Flag) -> str:
    z0, z1 = flag.box.start[0], flag.box.stop[0]
    sections = f"section {z0}" if z1 == z0 + 1 else f"sections {z0}–{z1 - 1}"
    return ", ".join(filter(None, (f"{number} {flag.kind}", sections, flag.source, flag.note)))


def shown(flags: Sequence[Flag]) -> tuple[Flag, ...]:
    """The defects among flags, in the order of the stack."""
    return tuple(sorted((f for f in flags if f.restorable), key=lambda f: f.box))
