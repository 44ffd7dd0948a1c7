"""The benchmarks' own promises, on volumes that take no time: all ways give the same voxels, and bytes are really counted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bytes_moved, end_to_end, growth, meter, tissue

LAYOUTS = (tissue.Layout("1 deep", (1, 64, 64)), tissue.Layout("shards", (1, 64, 64), (8, 64, 64)))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAISY_PYTHON", raising=False)
    monkeypatch.delenv("ZMEND_STACKS", raising=False)
    tissue._stack.cache_clear()
    monkeypatch.setattr(tissue, "LAYOUTS", LAYOUTS)
    for module, names in ((end_to_end, {"DEPTH": 12, "EDGE": 128, "EDGES": {}, "FLAGGED": (3, 9), "ROUNDS": 1}),
                          (bytes_moved, {"SHAPE": (12, 128, 128), "FLAGGED": (3, 9), "SLABS": ("whole",)})):  # fmt: skip
        for name, value in names.items():
            monkeypatch.setattr(module, name, value)


def test_zmend_and_its_peer_restore_the_same_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_to_end, "OURS", {k: v for k, v in end_to_end.OURS.items() if "workers" not in k})
    found = end_to_end.measure()
    for layout in LAYOUTS:
        row = found["layouts"][layout.name]
        assert set(row["medians"]) == {"zmend", "zmend overlay", "map_overlap"} and row["largest_difference"] <= 1
        written = {way: some["written_mb"] for way, some in row["medians"].items()}
        assert written["map_overlap"] > 0.15 and 0.03 < written["zmend overlay"] < written["zmend"]
    assert "| map_overlap | zmend |" in end_to_end.table(found)


def test_the_least_bytes_are_less_than_what_was_moved_and_not_by_magnitudes() -> None:
    rows = bytes_moved.measure()["rows"]
    assert [r["stage"] for r in rows] == ["restore", "merge"] * len(LAYOUTS)
    for row in rows:  # documents, and those of the packages that are named in them, are most of what so small a volume moves
        assert row["read_ratio"] > 1 and row["read_mb"] < row["least_read_mb"] + 0.9
        assert row["written_ratio"] > 1 and row["written_mb"] < row["least_written_mb"] + 0.3
        assert row["least_written_mb"] == row["read_back_mb"]


WRITER = "import sys; open(sys.argv[1], 'wb').write(bytes(10**7))"
CHILDS = f"""
import subprocess, sys
from benchmarks.meter import metered
found = {{}}
with metered(found):
    subprocess.run([sys.executable, "-c", {WRITER!r}, sys.argv[1]], check=True)
print(found["written_mb"])
"""


def test_bytes_of_children_count(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", CHILDS, str(tmp_path / "f")], capture_output=True, text=True, check=True, env=env)
    assert 10 <= float(done.stdout) < 10.1


def test_a_deep_volume_is_links_to_a_few_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.box import Box
    from pipeline.volume import Volume

    monkeypatch.setattr(growth, "EDGE", 96)
    growth._make(tmp_path / "raw.zarr", 50, (3,))
    volume = Volume.open(tmp_path / "raw.zarr")
    assert volume.shape == (50, 96, 96)
    z7, z47 = (volume.read(Box((z, 0, 0), (z + 1, 96, 96))) for z in (7, 47))
    assert np.array_equal(z7, z47) and z7.any() and volume.absent(Box.of(volume.shape)) == ()


def test_medians_and_ratios_go_round_by_round() -> None:
    ours: list[dict[str, Any]] = [{"wall_s": 1.0}, {"wall_s": 2.0}, {"wall_s": 4.0}]
    peer = [{"wall_s": 10.0}, {"wall_s": 30.0}, {"wall_s": 20.0}]
    assert meter.medians(ours) == {"wall_s": 2.0}
    assert meter.spread(meter.ratios(peer, ours, "wall_s")) == "10 (5–15)"
