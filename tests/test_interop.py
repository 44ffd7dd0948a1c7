"""Five readers of other people accept what zmend writes, and read the same voxels: OME 0.4 and 0.5, `volume` and `overlay`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ome_zarr_models import open_ome_zarr
from ome_zarr_models.v04.image_label import ImageLabel as ImageLabel04
from ome_zarr_models.v05.image_label import ImageLabel as ImageLabel05

from pipeline.box import Box
from pipeline.config import check
from pipeline.job import propose
from pipeline.run import run
from pipeline.volume import Volume
from tests.stores import kind, noise, write_volume

KINDS = {"0.4": "ome04", "0.5": "ome05-sharded-u2"}
SHAPE = (12, 96, 96)
STEPS = [(1, 2, 2), (1, 2, 2)]
SIZES = [(40.0, 8.0, 8.0), (40.0, 16.0, 16.0), (40.0, 32.0, 32.0)]


@dataclass
class Found:
    """What a reader made of an image: its levels, and their (z, y, x) voxel sizes where it tells them."""

    levels: Sequence[Any]
    sizes: Sequence[Any] | None = None


def with_ome_zarr_models(out: Path, version: str) -> tuple[Found, Found]:
    group = zarr.open_group(str(out), mode="r")
    assert type(open_ome_zarr(group["labels"])).__name__ == "Labels"  # type: ignore[arg-type]
    label = open_ome_zarr(group["labels/synthetic"])  # type: ignore[arg-type]
    assert isinstance(label, ImageLabel04 if version == "0.4" else ImageLabel05)

    def found(model: Any, at: Any) -> Found:
        said = model.attributes if version == "0.4" else model.attributes.ome
        datasets = said.multiscales[0].datasets
        return Found([at[d.path][...] for d in datasets], [d.coordinateTransformations[0].scale for d in datasets])

    return found(open_ome_zarr(group), group), found(label, group["labels/synthetic"])


def with_yaozarrs(out: Path, version: str) -> tuple[Found, Found]:
    import yaozarrs

    def found(folder: Path) -> Found:
        group = yaozarrs.validate_zarr_store(str(folder))
        assert group.ome_version() == version
        said = group.ome_metadata()
        multiscale = said.multiscales[0]
        assert [a.unit for a in multiscale.axes] == ["nanometer"] * 3
        arrays = [group[d.path].to_zarr_python()[...] for d in multiscale.datasets]
        return Found(arrays, [d.coordinateTransformations[0].scale for d in multiscale.datasets])

    if version == "0.5":  # in 0.4 a group of labels has no version, by which yaozarrs would know it
        yaozarrs.validate_zarr_store(str(out / "labels"))
    return found(out), found(out / "labels" / "synthetic")


def with_ome_zarr_py(out: Path, version: str) -> tuple[Found, Found]:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    place = parse_url(str(out))
    assert place is not None and place.version == version
    image, _, labels = Reader(place)()

    def found(node: Any) -> Found:
        return Found([d.compute() for d in node.data], [t[0]["scale"] for t in node.metadata["coordinateTransformations"]])

    assert labels.metadata["properties"][1] == {"class": "section synthesised"}
    assert set(labels.metadata["color"]) == {1, 2, 3, 4}
    return found(image), found(labels)


def with_ngff_zarr(out: Path, version: str) -> tuple[Found, Found]:
    import ngff_zarr

    def found(folder: Path) -> Found:
        image = ngff_zarr.from_ngff_zarr(str(folder), validate=True, version=version)
        sizes = [[v.scale[d] for d in "zyx"] for v in image.images]
        assert image.images[0].axes_units == dict.fromkeys("zyx", "nanometer")
        return Found([v.data.compute() for v in image.images], sizes)

    return found(out), found(out / "labels" / "synthetic")


def with_tensorstore(out: Path, version: str) -> tuple[Found, Found]:
    import tensorstore

    def read(path: str) -> Any:
        driver = "zarr" if version == "0.4" else "zarr3"
        kvstore = {"driver": "file", "path": f"{out / path}/"}
        return tensorstore.open({"driver": driver, "kvstore": kvstore}, open=True, read=True).result().read().result()

    levels = [i for i in "012" if (out / i).exists()]
    image = [read(level) for level in levels] or [read("zmend/overlay")]
    return Found(image), Found([read(f"labels/synthetic/{i}") for i in levels or "0"])


READERS: dict[str, Callable[[Path, str], tuple[Found, Found]]] = {
    "ome-zarr-models": with_ome_zarr_models, "yaozarrs": with_yaozarrs, "ome-zarr-py": with_ome_zarr_py,
    "ngff-zarr": with_ngff_zarr, "tensorstore": with_tensorstore,
}  # fmt: skip


@pytest.fixture(scope="module", params=[(v, m) for v in KINDS for m in ("volume", "overlay")], ids="-".join)
def mended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A store that a run has made: with sections that are restored whole, in part, and left; of more than one chunk."""
    version, mode = request.param
    folder = tmp_path_factory.mktemp("interop")
    layout = kind(KINDS[version])
    fine = noise(SHAPE, layout.dtype)
    uri = write_volume(folder / "raw.zarr", layout, [fine, fine[:, ::2, ::2], fine[:, ::4, ::4]], steps=STEPS)
    flags = folder / "flags.csv"
    flags.write_text("z_start,z_stop,class,y_start,y_stop,x_start,x_stop\n0,1,missing,,,,\n3,4,missing,,,,\n7,8,crack,10,40,0,30\n")
    config = {
        "volume": {"path": uri}, "flags": str(flags), "certificate": 0,
        "output": {"path": str(folder / "out.zarr"), "chunk_px": 32, "shard_px": 64, "mode": mode},
        "recipe": {"restorer": "tests.toys:Textured"}, "site": {"workers": 0, "slab_px": 64},
    }  # fmt: skip
    run(propose(check(config)))
    return folder / "out.zarr", version, mode


def ours(path: Path, levels: int) -> list[np.ndarray]:
    arrays = [Volume.open(path, level=i) for i in range(levels)]
    return [a.read(Box.of(a.shape)) for a in arrays]


@pytest.mark.parametrize("reader", READERS)
def test_other_readers_accept_an_output_and_read_the_same_voxels(reader: str, mended: tuple[Path, str, str]) -> None:
    out, version, mode = mended
    levels = 3 if mode == "volume" else 1
    image, labels = READERS[reader](out, version)
    for found, due in ((image, ours(out, levels)), (labels, ours(out / "labels" / "synthetic", levels))):
        assert [np.asarray(v).dtype for v in found.levels] == [v.dtype for v in due]
        for theirs, here in zip(found.levels, due, strict=True):
            np.testing.assert_array_equal(np.asarray(theirs), here)
        if found.sizes is not None:
            assert [tuple(s) for s in found.sizes] == SIZES[:levels]
    assert {*np.unique(np.asarray(labels.levels[0]))} == {0, 1, 2, 3, 4}, "all that can be told apart is there"


def test_all_that_lies_in_a_store_is_read_by_tensorstore(mended: tuple[Path, str, str]) -> None:
    """Not the image's levels alone: also the overlay beside a merged volume."""
    import tensorstore

    out, version, _ = mended
    name, driver = (".zarray", "zarr") if version == "0.4" else ("zarr.json", "zarr3")
    arrays = [p.parent for p in out.rglob(name) if '"shape"' in p.read_text()]
    assert len(arrays) == (7 if mended[2] == "volume" else 2)
    for path in arrays:
        spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{path}/"}}
        theirs = tensorstore.open(spec, open=True, read=True).result().read().result()
        array = Volume.open(path)
        np.testing.assert_array_equal(theirs, array.read(Box.of(array.shape)))
