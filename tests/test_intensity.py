"""16-bit volumes use part of their range: the window is found, kept, and never clips a known voxel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.intensity import measure
from pipeline.job import propose
from pipeline.run import run
from pipeline.verify import verify
from tests.jobs import build, save, tissue, voxels


def twelve_bits(shape: tuple[int, int, int]) -> np.ndarray:
    return (1000 + 12 * tissue(shape).astype(np.uint16)).astype(np.uint16)


def test_the_window_of_a_12_bit_stack_without_its_missing_sections(tmp_path: Path) -> None:
    data = twelve_bits((16, 300, 280))
    low, high = np.percentile(data, [0.1, 99.9])
    data[3:6] = 0
    found = measure(save(tmp_path / "a.zarr", data, (8, 128, 128)))
    assert found[0] == pytest.approx(low, abs=0.1 * (high - low))
    assert found[1] == pytest.approx(high, abs=0.1 * (high - low))
    assert found[0] < low < high < found[1]


def test_a_volume_of_nothing_has_the_whole_range(tmp_path: Path) -> None:
    assert measure(save(tmp_path / "a.zarr", np.zeros((4, 64, 64), np.uint16), (1, 64, 64))) == (0, 65535)


def test_the_window_is_part_of_the_recipe_and_stays_when_the_volume_grows(tmp_path: Path) -> None:
    job = build(tmp_path)
    data = twelve_bits((16, 300, 280))
    raw = save(tmp_path / "deep.zarr", data, (8, 128, 128))
    config = job.load(volume={"path": "deep.zarr"})
    first = propose(config)
    window = first.plan.header["recipe"]["intensity"]
    assert window == list(measure(raw))
    run(first)
    made = voxels(tmp_path / "out.zarr")
    np.testing.assert_array_equal(made[~job.flagged], data[~job.flagged])
    error = np.abs(made.astype(float) - data)[job.flagged].mean() / 12
    assert error < 45, "grey levels of the 8-bit original"
    assert verify(str(tmp_path / "out.zarr"), replay=2)["ok"]
    raw.resize((20, 300, 280))
    job.flags("3\n")
    assert propose(config).plan.header["recipe"]["intensity"] == window


def test_an_impossible_window_is_refused(tmp_path: Path) -> None:
    job = build(tmp_path)
    with pytest.raises(ConfigError, match="intensity window 200 to 100"):
        propose(job.load(recipe={"intensity": [200, 100]}))
