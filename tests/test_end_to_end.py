"""The main job on every kind of store that people have, over http, and on a real stack with the real weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from ome_zarr_models import open_ome_zarr

from pipeline.box import Box
from pipeline.config import check
from pipeline.job import propose
from pipeline.run import run
from pipeline.verify import verify
from pipeline.volume import Volume
from tests.jobs import ROOT, command, save, tree, voxels
from tests.stores import KINDS, Kind, noise, serve, write_volume

SHAPE = (12, 96, 96)
STACK = ROOT.parent / "shared" / "data" / "vnc_stack1.npz"


def levels(dtype: str) -> list[np.ndarray]:
    fine = noise(SHAPE, dtype)
    return [fine, fine[:, ::2, ::2].copy(), fine[:, ::4, ::4].copy()]


def settings(volume: str, folder: Path, **volume_keys: object) -> dict:
    flags = folder / "flags.csv"
    flags.write_text("z_start,z_stop,class,y_start,y_stop,x_start,x_stop\n3,4,missing,,,,\n7,8,crack,10,40,0,30\n")
    return {
        "volume": {"path": volume, **volume_keys}, "flags": str(flags), "output": {"path": str(folder / "out.zarr"), "chunk_px": 32},
        "recipe": {"restorer": "tests.toys:Textured"}, "site": {"workers": 0, "slab_px": 64},
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_every_kind_of_store_is_mended_and_verifies(kind: Kind, tmp_path: Path) -> None:
    fine = levels(kind.dtype)
    uri = write_volume(tmp_path / "raw.zarr", kind, fine, steps=[(1, 2, 2), (1, 2, 2)])
    before = tree(tmp_path / "raw.zarr")
    extra = {} if kind.ome else {"voxel_size_nm": [40, 8, 8]}
    summary = run(propose(check(settings(uri, tmp_path, **extra))))
    assert summary["voxels_restored"] == 96 * 96 + 30 * 30
    found = verify(str(tmp_path / "out.zarr"), replay=2)
    assert found["ok"], found
    assert found["voxels_changed_outside_mask"] == 0
    made = voxels(tmp_path / "out.zarr")
    np.testing.assert_array_equal(np.delete(made, [3, 7], 0), np.delete(fine[0], [3, 7], 0))
    assert (made[3] != fine[0][3]).mean() > 0.5
    assert tree(tmp_path / "raw.zarr") == before
    assert open_ome_zarr(str(tmp_path / "out.zarr")).ome_zarr_version == kind.version


@pytest.mark.parametrize("name", ["ome04", "ome05"])
def test_a_coarser_level_can_be_mended(name: str, tmp_path: Path) -> None:
    kind = next(k for k in KINDS if k.name == name)
    fine = levels(kind.dtype)
    uri = write_volume(tmp_path / "raw.zarr", kind, fine, steps=[(1, 2, 2), (1, 2, 2)])
    body = settings(uri, tmp_path, level=1)
    run(propose(check(body)))
    assert verify(str(tmp_path / "out.zarr"))["ok"]
    for address in ("1", "labels/synthetic/1"):
        coarse = Volume.open(str(tmp_path / "out.zarr" / address), writable=True)
        (cell,) = Box((3, 0, 0), (4, 1, 1)).cells(coarse.grain)  # section 3 is synthetic
        box = cell & Box.of(coarse.shape)
        kept = coarse.read(box)
        coarse.write(box, kept ^ 1)
        (failed,) = [c for c in verify(str(tmp_path / "out.zarr"))["checks"] if not c["ok"]]
        assert failed["name"] == "pyramid"
        coarse.write(box, kept)
    assert verify(str(tmp_path / "out.zarr"))["ok"]
    made = Volume.open(str(tmp_path / "out.zarr"))
    assert made.shape == fine[1].shape
    assert made.voxel_nm == (40.0, 16.0, 16.0)


def test_a_source_on_the_web(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    fine = levels("uint8")
    write_volume(tmp_path / "web/raw.zarr", next(k for k in KINDS if k.name == "ome05"), fine, steps=[(1, 2, 2), (1, 2, 2)])
    with serve(tmp_path / "web") as address:
        run(propose(check(settings(f"{address}/raw.zarr", tmp_path))))
        assert verify(str(tmp_path / "out.zarr"), replay=1)["ok"]
    np.testing.assert_array_equal(voxels(tmp_path / "out.zarr")[0], fine[0][0])


def test_a_bare_array_without_voxel_size_is_refused_by_a_restorer_that_needs_it(tmp_path: Path) -> None:
    kind = replace(next(k for k in KINDS if k.name == "v3"))
    uri = write_volume(tmp_path / "raw.zarr", kind, [noise(SHAPE)])
    body = settings(uri, tmp_path)
    body["recipe"] = {"restorer": "diffusion"}
    (tmp_path / "zmend.yaml").write_text(yaml.safe_dump(body))
    process = command("run", "zmend.yaml", cwd=tmp_path)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 3
    assert "voxel size is not known" in err
    assert "voxel_size_nm: [z, y, x]" in err
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_real_sections_are_mended_with_the_weights_that_ship(tmp_path: Path) -> None:
    """Sections 15 and 17–18 missing, a crack on 11, of a stack whose sections 14–19 no weights have seen."""
    if not STACK.exists():
        pytest.skip("the real stacks are not here (../shared/data)")
    with np.load(STACK) as stacks:
        truth = stacks["raw"][:, 200:456, 300:556]
    damaged, mask = truth.copy(), np.zeros(truth.shape, np.uint8)
    y, x = np.indices(truth.shape[1:])
    mask[11] = abs(y - 100 - 0.4 * x) < 9
    damaged[[15, 17, 18]] = 0
    damaged[mask > 0] = 235
    save(tmp_path / "raw.zarr", damaged, (4, 128, 128))
    save(tmp_path / "mask.zarr", mask, (1, 128, 128))
    (tmp_path / "flags.csv").write_text("z_start,z_stop,class,mask\n15,16,missing,\n17,19,missing,\n11,12,crack,mask.zarr\n")
    body = {
        "volume": {"path": "raw.zarr"}, "flags": "flags.csv", "output": {"path": "mended.zarr"},
        "recipe": {"restorer": "diffusion", "weights": "default", "steps": 4, "seed": 7}, "site": {"kind": "local", "workers": 2},
    }  # fmt: skip
    (tmp_path / "zmend.yaml").write_text(yaml.safe_dump(body))
    ran = command("run", "zmend.yaml", "--json", cwd=tmp_path)
    out, err = ran.communicate(timeout=400)
    assert ran.returncode == 0, err
    summary = json.loads(out)
    assert (summary["quarantined"], summary["not_restorable"]) == (0, [])
    proof = command("verify", "mended.zarr", "--replay", "1", "--json", cwd=tmp_path)
    document = json.loads(proof.communicate(timeout=400)[0])
    assert proof.returncode == 0, document
    assert document["voxels_changed_outside_mask"] == 0
    made = voxels(tmp_path / "mended.zarr").astype(float)
    for z, before, after in ((15, 14, 16), (17, 16, 19), (18, 16, 19)):
        weight = (z - before) / (after - before)
        linear = (1 - weight) * truth[before] + weight * truth[after]
        assert detail(made[z]) > detail(linear), "sharper than linear interpolation"
    assert np.abs(made[mask > 0] - truth[mask > 0]).mean() < np.abs(damaged[mask > 0].astype(float) - truth[mask > 0]).mean() / 2


def detail(section: np.ndarray) -> float:
    """Power between 0.125 and 0.5 cycles per pixel."""
    power = np.abs(np.fft.fft2(section - section.mean())) ** 2
    fy, fx = np.meshgrid(*(np.fft.fftfreq(n) for n in section.shape), indexing="ij")
    radius = np.hypot(fy, fx)
    return float(power[(radius >= 0.125) & (radius < 0.5)].sum())
