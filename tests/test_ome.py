"""OME metadata: what is understood of others', and that ours is valid to the library that others validate with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from ome_zarr_models import open_ome_zarr
from ome_zarr_models.v04 import Image as Image04
from ome_zarr_models.v04.image_label import ImageLabel as ImageLabel04
from ome_zarr_models.v05 import Image as Image05
from ome_zarr_models.v05.image_label import ImageLabel as ImageLabel05

from pipeline.errors import VolumeError
from pipeline.foundation import create_output
from pipeline.layout import Layout, parse_layout
from pipeline.ome import array_image, flat_image, image_attributes, image_from, parse_image
from pipeline.volume import Volume
from tests.stores import KINDS, VOXEL_NM, Kind, kind, noise, write_volume


def attributes(**entry: Any) -> dict[str, Any]:
    axes = [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"]
    dataset = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [40, 4, 4]}]}
    return {"multiscales": [{"version": "0.4", "axes": axes, "datasets": [dataset], **entry}]}


@pytest.mark.parametrize(
    ("unit", "nm"),
    [("nanometer", 1), ("micrometer", 1000), ("angstrom", 0.1), ("millimeter", 1e6), ("µm", 1e3), ("meter", 1e9)],
)
def test_units_become_nanometres(unit: str, nm: float) -> None:
    image = parse_image(attributes(axes=[{"name": n, "type": "space", "unit": unit} for n in "zyx"]))
    assert image is not None and image.voxel_nm(0) == pytest.approx((40 * nm, 4 * nm, 4 * nm))


@pytest.mark.parametrize("unit", [{}, {"unit": "parsnip"}])
def test_without_a_known_unit_the_voxel_size_is_not_known(unit: dict[str, str]) -> None:
    image = parse_image(attributes(axes=[{"name": n, "type": "space", **unit} for n in "zyx"]))
    assert image is not None and image.voxel_nm(0) is None and "voxel size unknown" in image.listing()


def test_axes_are_found_by_name() -> None:
    axes = [{"name": "C", "type": "channel"}, *({"name": n, "type": "space", "unit": "nm"} for n in "XYZ")]
    dataset = {"path": "/s0/", "coordinateTransformations": [{"type": "scale", "scale": [1, 2, 3, 40]}]}
    image = parse_image(attributes(axes=axes, datasets=[dataset]))
    assert image is not None
    assert image.names == ("c", "x", "y", "z") and image.voxel_nm(0) == (40, 3, 2) and image.levels[0].path == "s0"


def test_old_and_new_places() -> None:
    entry = attributes()["multiscales"][0]
    assert parse_image({}) is None and parse_image({"ome": {"version": "0.5"}}) is None
    new = parse_image({"ome": {"version": "0.5", "multiscales": [entry]}})
    assert new is not None and new.version == "0.5"
    third = parse_image({"multiscales": [{"version": "0.3", "axes": ["z", "y", "x"], "datasets": [{"path": "0"}]}]})
    assert third is not None and third.names == ("z", "y", "x")
    first = parse_image({"multiscales": [{"version": "0.1", "datasets": [{"path": "0"}]}]})
    assert first is not None and first.names == ("t", "c", "z", "y", "x")


@pytest.mark.parametrize("broken", [{"datasets": [{}]}, {"axes": [{}]}, {"datasets": 3}])
def test_garbled_metadata_is_an_error_with_a_remedy(broken: dict[str, Any]) -> None:
    with pytest.raises(VolumeError, match=r"cannot be understood[\s\S]*ome-zarr-models validate"):
        image = parse_image(attributes(**broken))
        assert image is not None and image.names


def test_the_origin_of_a_level() -> None:
    steps = [{"type": "scale", "scale": [40, 8, 8]}, {"type": "translation", "translation": [0, 2, 2]}]
    wide = [{"type": "scale", "scale": [1, 2, 2]}, {"type": "translation", "translation": [100, 0, 0]}]
    image = parse_image(
        attributes(datasets=[{"path": "0", "coordinateTransformations": steps}], coordinateTransformations=wide)
    )
    assert image is not None and image.voxel_nm(0) == (40, 16, 16) and image.shift(0) == (100, 4, 4)


def test_a_size_that_the_user_names_scales_every_level_anew() -> None:
    levels = [
        {"path": p, "coordinateTransformations": [{"type": "scale", "scale": s}]}
        for p, s in (("a", [1, 1, 1]), ("b", [1, 2, 2]), ("c", [2, 4, 4]))
    ]
    image = parse_image(attributes(datasets=levels))
    assert image is not None
    told = image_from(image, 1, "0.5", (40, 8, 8))
    assert [v.path for v in told.levels] == ["0", "1"]
    assert [told.voxel_nm(i) for i in (0, 1)] == [(40, 8, 8), (80, 16, 16)]
    kept = image_from(image, 1, "0.5", image.voxel_nm(1))
    assert kept.levels[0].transformations == image.levels[1].transformations and kept.axes == image.axes


# --- names of chunks


def layouts() -> st.SearchStrategy[Layout]:
    def build(three: bool, separator: str, sizes: list[tuple[int, int]]) -> Layout:
        shape, chunks = [n for n, _ in sizes], [c for _, c in sizes]
        doc: dict[str, Any] = {"zarr_format": 2, "shape": shape, "chunks": chunks, "dtype": "|u1"}
        if three:
            grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
            doc = {"zarr_format": 3, "shape": shape, "chunk_grid": grid, "data_type": "uint8", "codecs": []}
            doc["chunk_key_encoding"] = {"name": "default", "configuration": {"separator": separator}}
        return parse_layout(doc | ({} if three else {"dimension_separator": separator}), {}, None)

    sizes = st.lists(st.tuples(st.integers(1, 99), st.integers(1, 40)), min_size=3, max_size=3)
    return st.builds(build, st.booleans(), st.sampled_from("./"), sizes)


@given(layout=layouts(), data=st.data())
def test_keys_and_cells_are_inverse(layout: Layout, data: st.DataObject) -> None:
    cells = [data.draw(st.integers(0, (n - 1) // g)) for n, g in zip(layout.shape, layout.grain, strict=True)]
    assert layout.index(layout.key(cells)) == tuple(cells)
    beyond = [-(-n // g) for n, g in zip(layout.shape, layout.grain, strict=True)]
    assert layout.index(layout.key(beyond)) is None
    for other in ("zarr.json", ".zarray", "", "c/0", layout.key(cells) + ".partial", "0" + layout.key(cells)):
        assert layout.index(other) is None


# --- what we write


def validate(folder: Path, version: str) -> Any:
    """Open a whole output with ome-zarr-models; return the model of its image."""
    image, label = (Image04, ImageLabel04) if version == "0.4" else (Image05, ImageLabel05)
    group = zarr.open_group(str(folder), mode="r")
    model = open_ome_zarr(group)
    assert isinstance(model, image)
    labels: Any = open_ome_zarr(group["labels"])  # type: ignore[arg-type]
    assert type(labels).__name__ == "Labels"
    assert isinstance(open_ome_zarr(group["labels/synthetic"]), label)  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize("mode", ["volume", "overlay"])
@pytest.mark.parametrize("layout", KINDS, ids=lambda k: k.name)
def test_outputs_are_valid_images(layout: Kind, mode: Any, tmp_path: Path) -> None:
    fine, coarse = noise((9, 50, 40), layout.dtype), noise((9, 25, 20), layout.dtype)
    uri = write_volume(tmp_path / "v", layout, [fine, coarse], steps=[(1, 2, 2)])
    source = Volume.open(uri)
    out = tmp_path / "out.zarr"
    create_output(str(out), source, mode=mode, chunk_yx=32, shard_yx=64, extra={"mode": mode})
    model = validate(out, layout.version)
    made = Volume.open(out)
    assert made.voxel_nm == source.voxel_nm and made.shape == source.shape and made.dtype == source.dtype
    entry = (model.attributes.ome if layout.version == "0.5" else model.attributes).multiscales[0]
    paths = [d.path for d in entry.datasets]
    if mode == "overlay":
        assert paths == ["zmend/overlay"] and made.grain == ((1, 64, 64) if layout.zarr_format == 3 else (1, 32, 32))
        return
    assert paths == (["0", "1"] if layout.ome else ["0"])
    assert [a.name for a in entry.axes] == list(layout.dims)
    for i, level in enumerate(source.pyramid()):
        ours = Volume.open(out, level=i).files
        for name in ("zarr.json", ".zarray"):
            theirs = level.files.read(name)
            if layout.named or layout.zarr_format == 2:
                assert ours.read(name) == theirs, "byte for byte"
            elif theirs:
                doc = json.loads(theirs) | {"dimension_names": list(layout.dims)}
                assert json.loads(ours.read(name) or "") == doc, "but for the axes' names"
        assert level.voxel_nm == Volume.open(out, level=i).voxel_nm


@pytest.mark.parametrize("name", ["ome04", "ome05"])
@pytest.mark.parametrize("mode", ["volume", "overlay"])
def test_an_output_of_a_coarser_level_begins_there(name: str, mode: Any, tmp_path: Path) -> None:
    levels = [noise((8, 64, 64)), noise((8, 32, 32)), noise((4, 16, 16))]
    uri = write_volume(tmp_path / "v", kind(name), levels, steps=[(1, 2, 2), (2, 2, 2)])
    source = Volume.open(uri, level=1)
    create_output(str(tmp_path / "o"), source, mode=mode, chunk_yx=32, shard_yx=None, extra={})
    validate(tmp_path / "o", kind(name).version)
    voxels = [v.voxel_nm for v in Volume.open(tmp_path / "o").pyramid()]
    assert voxels == [(40, 16, 16), (80, 32, 32)][: 2 if mode == "volume" else 1]
    assert Volume.open(tmp_path / "o" / "labels" / "synthetic").voxel_nm == (40, 16, 16)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_image_survives_writing_and_reading(version: str) -> None:
    image = array_image(version, "0", ("c", "x", "y", "z"), VOXEL_NM)
    assert parse_image(image_attributes(image)) == image and image.voxel_nm(0) == VOXEL_NM
    flat = flat_image(image, ["zmend/overlay"])
    assert flat.names == ("z", "y", "x") and flat.voxel_nm(0) == VOXEL_NM and flat.levels[0].path == "zmend/overlay"


def test_a_flat_image_keeps_where_it_lies() -> None:
    steps = [{"type": "scale", "scale": [40, 8, 8]}, {"type": "translation", "translation": [0, 2, 2]}]
    image = parse_image(attributes(datasets=[{"path": "0", "coordinateTransformations": steps}]))
    assert image is not None and flat_image(image, ["a"]).shift(0) == image.shift(0) == (0, 2, 2)
