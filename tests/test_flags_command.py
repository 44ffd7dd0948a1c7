"""Malformed flags end the command with 3, the file, the line and a remedy; nothing is made and no traceback shown."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
import zarr

from pipeline.cli import main
from pipeline.config import check
from pipeline.flagfile import dump
from pipeline.job import propose
from pipeline.run import run
from pipeline.verify import verify
from tests import independent
from tests.jobs import save, voxels
from tests.test_flags import ACCEPTED, DATA, REFUSED, SHAPE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flags")
    save(folder / "raw.zarr", np.full(SHAPE, 7, np.uint8), (8, 64, 64))
    save(folder / "small.zarr", np.zeros((3, 5, 7), np.uint8), (1, 64, 64))
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_the_command_refuses_it(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    flags = folder / f"{name}.csv"
    shutil.copy(DATA / f"{name}.csv", flags)
    body = {"volume": {"path": "raw.zarr"}, "flags": flags.name, "output": {"path": "out.zarr"}, "recipe": {"restorer": "linear"}}
    (folder / "zmend.yaml").write_text(yaml.safe_dump(body))
    monkeypatch.setattr(sys, "argv", ["zmend", "run", str(folder / "zmend.yaml")])
    with pytest.raises(SystemExit) as e:
        main()
    said = capsys.readouterr().err
    assert e.value.code == 3
    assert flags.name in said
    assert "do:" in said
    assert "Traceback" not in said
    assert not (folder / "out.zarr").exists()


def test_there_are_files_enough() -> None:
    assert len(REFUSED) >= 30
    assert ACCEPTED


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "uint64"])
@pytest.mark.parametrize("coarser", [1, 2])
@pytest.mark.parametrize(("sections", "least"), [(6, ""), (4, " >= 100")], ids=["whole", "short, from a value on"])
def test_masks_of_any_integer_type_at_this_or_a_coarser_scale(dtype: str, coarser: int, sections: int, least: str, tmp_path: Path) -> None:
    if least and dtype == "bool":
        pytest.skip("bool has no values")
    shape = (6, 96, 96)
    save(tmp_path / "raw.zarr", np.random.default_rng(0).integers(1, 255, shape, dtype=np.uint8), (2, 32, 32))
    mask = np.zeros((sections, 96 // coarser, 96 // coarser), dtype)
    mask[3, 10:20, 10:20] = 100 if least else 1
    mask[3, 30:40, 10:20] = 99 if least else 0
    array = zarr.create_array(tmp_path / "mask.zarr", shape=mask.shape, dtype=dtype, chunks=(1, 32, 32))
    array[:] = mask
    (tmp_path / "flags.csv").write_text(dump([{"z_start": 3, "z_stop": 4, "class": "crack", "mask": f"mask.zarr{least}"}]))
    body = {
        "volume": {"path": str(tmp_path / "raw.zarr")}, "flags": str(tmp_path / "flags.csv"), "recipe": {"restorer": "linear"},
        "output": {"path": str(tmp_path / "out.zarr"), "chunk_px": 32}, "site": {"workers": 0, "slab_px": 32},
    }  # fmt: skip
    run(propose(check(body)))
    labels = voxels(tmp_path / "out.zarr", "labels")
    wide = np.repeat(np.repeat(mask, coarser, 1), coarser, 2) >= (100 if least else 1)
    np.testing.assert_array_equal(labels[:sections] > 0, wide)
    assert not labels[sections:].any()
    assert verify(str(tmp_path / "out.zarr"))["ok"]
    assert independent.verify(str(tmp_path / "out.zarr")) == []
