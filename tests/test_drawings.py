"""Lists that people have drawn in Neuroglancer and WEBKNOSSOS are flags; files as these programs write them."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import FlagError
from pipeline.flagfile import load

SHAPE, NM = (50, 400, 600), (40.0, 8.0, 8.0)  # of the level that is mended: half as fine as what was drawn on

# A state as the share link of Neuroglancer holds it; coordinates are of the layer's own units, 4 nm in y and x.
STATE: dict[str, Any] = {
    "dimensions": {"x": [4e-9, "m"], "y": [4e-9, "m"], "z": [4e-8, "m"]},
    "position": [512.5, 300.5, 20.5],
    "crossSectionScale": 2,
    "projectionScale": 4096,
    "layers": [
        {"type": "image", "source": "zarr2://https://example.org/em.zarr", "tab": "source", "name": "em"},
        {
            "type": "annotation",
            "source": {
                "url": "local://annotations",
                "transform": {"outputDimensions": {"x": [4e-9, "m"], "y": [4e-9, "m"], "z": [4e-8, "m"]}},
            },
            "tool": "annotateBoundingBox",
            "tab": "annotations",
            "annotations": [
                {"pointA": [100, 80, 12], "pointB": [301, 40, 14], "type": "axis_aligned_bounding_box", "id": "7e4c", "description": "fold"},
                {"center": [200.5, 200.5, 30.5], "radii": [20, 10, 0.5], "type": "ellipsoid", "id": "a1"},
                {"point": [512.5, 300.5, 20.5], "type": "point", "id": "b2", "description": "Missing section"},
                {"point": [12.5, 30.5, 20.25], "type": "point", "id": "b3", "description": "missing too"},
                {"pointA": [10, 10, 40.5], "pointB": [20, 30, 40.5], "type": "line", "id": "c3", "props": [1]},
                {"pointA": [-9, -9, 45], "pointB": [5000, 5000, 46], "type": "axis_aligned_bounding_box", "id": "d4"},
            ],
            "name": "cracks to mend",
        },
        {"type": "segmentation", "source": "precomputed://gs://x/seg", "segments": ["12"], "name": "seg"},
    ],
    "selectedLayer": {"visible": True, "layer": "cracks to mend"},
    "layout": "4panel",
}  # fmt: skip
DRAWN = [
    (12, 14, "fold", (20, 40, 50, 151)),
    (30, 31, "crack", (95, 106, 90, 111)),
    (20, 21, "missing", None),
    (40, 41, "crack", (5, 15, 5, 10)),
    (45, 46, "crack", None),
]

NML = """\
<?xml version="1.0" encoding="UTF-8"?>
<things>
  <meta name="writer" content="NmlWriter.scala" />
  <meta name="writerGitCommit" content="c72c3f8" />
  <parameters>
    <experiment name="sample_E" organization="example" wkUrl="https://webknossos.org" />
    <scale x="4.0" y="4.0" z="40.0" unit="nanometer" />
    <offset x="0" y="0" z="0" />
    <time ms="1700000000000" />
    <editPosition x="512" y="300" z="20" />
    <zoomLevel zoom="1.0" />
    <userBoundingBox id="1" name="Crack, wide" isVisible="true" color.r="0.2" color.g="0.5" color.b="0.9" color.a="1.0" topLeftX="100" topLeftY="40" topLeftZ="12" width="201" height="40" depth="2" />
    <userBoundingBox id="2" name="user bounding box 2" isVisible="false" topLeftX="0" topLeftY="0" topLeftZ="30" width="1200" height="800" depth="1" />
  </parameters>
  <thing id="1" name="contamination" color.r="1.0" color.g="0.0" color.b="0.0" color.a="1.0" type="DEFAULT">
    <nodes>
      <node id="1" radius="120.0" x="512" y="300" z="20" rotX="0.0" rotY="0.0" rotZ="0.0" inVp="0" inMag="0" bitDepth="8" interpolation="false" time="1700000000001" />
      <node id="2" radius="120.0" x="10" y="10" z="44" inVp="0" inMag="0" time="1700000000002" />
    </nodes>
    <edges><edge source="1" target="2" /></edges>
  </thing>
  <branchpoints />
  <comments><comment node="2" content="missing" /></comments>
  <groups />
</things>
"""  # fmt: skip
BOXES = {
    "typ": "Skeleton", "name": "sections to mend", "userBoundingBoxes": [
        {"id": 1, "name": "folds", "color": [0.1, 0.2, 0.3], "isVisible": True, "boundingBox": {"topLeft": [50, 20, 12], "width": 101, "height": 20, "depth": 2}},
    ],
}  # fmt: skip


def read(folder: Path, text: str, nm: tuple[float, float, float] | None = NM) -> list[tuple[Any, ...]]:
    (folder / "drawn").write_text(text)
    flags = load(str(folder / "drawn"), shape=SHAPE, voxel_nm=nm)
    return [(f.box.start[0], f.box.stop[0], f.kind, None if f.whole else (f.box.start[1], f.box.stop[1], f.box.start[2], f.box.stop[2])) for f in flags]


def test_a_state_of_neuroglancer(tmp_path: Path) -> None:
    assert sorted(read(tmp_path, json.dumps(STATE))) == sorted(DRAWN)


def test_one_layer_of_it_alone_with_its_axes_in_another_order(tmp_path: Path) -> None:
    layer = copy.deepcopy(STATE["layers"][1])
    space = layer["source"].pop("transform")["outputDimensions"]
    layer["source"] = [{"url": "local://annotations", "transform": {"outputDimensions": {"t": [1, "s"], **{a: space[a] for a in "zyx"}}}}]
    for item in layer["annotations"]:
        item |= {k: [0, *item[k][::-1]] for k in ("point", "pointA", "pointB", "center", "radii") if k in item}
    assert sorted(read(tmp_path, json.dumps(layer))) == sorted(DRAWN)


def test_a_state_from_before_2019(tmp_path: Path) -> None:
    old = {
        "layers": {},
        "navigation": {"pose": {"position": {"voxelSize": [4, 4, 40], "voxelCoordinates": [512, 300, 20]}}, "zoomFactor": 8},
    } | {"layers": [{"type": "annotation", "name": "bad sections", "annotations": [{"point": [1, 2, 17.5], "type": "point", "id": "x"}]}]}
    assert read(tmp_path, json.dumps(old)) == [(17, 18, "damaged", None)]


def test_an_nml_of_webknossos(tmp_path: Path) -> None:
    wanted = [(12, 14, "crack", (20, 40, 50, 151)), (20, 21, "contamination", None), (30, 31, "damaged", None), (44, 45, "missing", None)]
    assert sorted(read(tmp_path, NML)) == wanted
    assert sorted(read(tmp_path, "\ufeff" + NML.replace("\n", "\r\n"))) == wanted


def test_the_bounding_boxes_of_webknossos_are_in_voxels_of_what_is_mended(tmp_path: Path) -> None:
    assert read(tmp_path, json.dumps(BOXES), None) == [(12, 14, "fold", (20, 40, 50, 151))]


def _with(**item: Any) -> str:
    state = copy.deepcopy(STATE)
    state["layers"][1]["annotations"] = [item]
    return json.dumps(state)


@pytest.mark.parametrize(
    ("text", "nm", "words"),
    [
        (json.dumps(STATE), None, "the voxel size of the volume is not known(.|\n)*voxel_size_nm"),
        (NML, None, "the voxel size of the volume is not known"),
        (_with(type="polyline", points=[]), NM, "annotation of layer 'cracks to mend' 1: its type is 'polyline'"),
        (_with(type="point", point=[1, 2]), NM, "annotation of layer 'cracks to mend' 1: IndexError"),
        (_with(type="point"), NM, "KeyError: 'point'"),
        (_with(type="point", point=[1, 2, float("nan")]), NM, "point is no place"),
        (_with(type="point", point=[1, 2, 1e300]), NM, "point is no place"),
        (_with(type="point", point=[1, 2, 50.5]), NM, "leaves the volume"),
        (_with(type="axis_aligned_bounding_box", pointA=[9000, 1, 1], pointB=[9001, 2, 2]), NM, "leaves the volume"),
        (json.dumps({"layers": [{"annotations": []}], "dimensions": {"x": [4e-9, "m"]}}), NM, "does not say how large its units are"),
        (json.dumps({"layers": [{"annotations": []}], "dimensions": {a: [4, "s"] for a in "xyz"}}), NM, "not in metres"),
        (json.dumps({"layers": []}), NM, "nothing is drawn in it"),
        (json.dumps({"layers": 7}), NM, "`layers` is no list"),
        (json.dumps({"userBoundingBoxes": {}}), NM, "`userBoundingBoxes` is no list"),
        (json.dumps({"userBoundingBoxes": [{"boundingBox": {"topLeft": [1, 2, 3]}}]}), NM, "userBoundingBoxes 1: KeyError: 'depth'"),
        ("<svg></svg>", NM, "its root is <svg>"),
        ("<things>", NM, "it is no XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><things/>', NM, "it has a DOCTYPE"),
        (NML.replace('depth="1"', 'depth="one"'), NM, "userBoundingBox 2: size is no place"),
        (NML.replace('x="4.0" y="4.0" z="40.0"', ""), NM, "these annotations are not understood(.|\n)*scale is no place"),
    ],
)  # fmt: skip
def test_refused_with_what_and_where(text: str, nm: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(FlagError, match=words) as caught:
        read(tmp_path, text, nm)
    assert "drawn" in caught.value.where and caught.value.do


values = st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.integers(), lambda v: st.lists(v, max_size=4) | st.dictionaries(st.sampled_from(["type", "point", "pointA", "pointB", "center", "radii", "annotations", "source", "transform", "outputDimensions", "x", "y", "z", "topLeft", "boundingBox", "navigation"]), v, max_size=4), max_leaves=12)  # fmt: skip


@given(key=st.sampled_from(["layers", "annotations", "userBoundingBoxes", "dimensions"]), value=values)
@settings(max_examples=200, deadline=None)
def test_any_json_is_read_or_refused(key: str, value: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    with suppress(FlagError):
        read(tmp_path_factory.getbasetemp(), json.dumps({"layers": [{"annotations": [value]}], "dimensions": STATE["dimensions"], key: value}))
