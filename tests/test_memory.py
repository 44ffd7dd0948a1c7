"""Memory: what a plan says that a process takes at most is what one takes, as the operating system tells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from pipeline import worker
from pipeline.box import ZYX, Box
from pipeline.config import load
from pipeline.job import propose
from pipeline.lanes import Budget
from pipeline.merge import merge
from pipeline.run import run
from pipeline.volume import Volume
from tests.jobs import ROOT

MARGIN = 1.1  # what the allocator keeps of what was given back; plans say the most, so that they are seldom reached
RUN = """
import sys
from pathlib import Path
from pipeline.config import load
from pipeline.job import propose
from pipeline.run import run
run(propose(load(Path(sys.argv[1]))))
(line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
print(int(line.split()[1]) * 1024)
"""
CASES: dict[str, dict[str, Any]] = {
    "large chunks": {"shape": (40, 1536, 1536), "chunks": (40, 768, 768), "flagged": (3, 17, 36)},
    "one huge chunk": {"shape": (48, 1024, 1280), "chunks": (48, 1024, 1280), "flagged": (20,)},
    "shards": {"shape": (32, 2048, 2048), "chunks": (1, 256, 256), "shards": (32, 1024, 1024), "flagged": (3, 17)},
    "thin chunks": {"shape": (16, 3072, 3072), "chunks": (1, 1024, 1024), "flagged": (3, 5, 12)},
}


def made(folder: Path, *, shape: ZYX, flagged: tuple[int, ...], **grid: Any) -> Path:
    """A volume of noise, which does not compress, and the configuration of a job."""
    folder.mkdir()
    volume = Volume.create(folder / "raw.zarr", shape=shape, dtype=np.uint8, voxel_nm=(45.0, 4.6, 4.6), **grid)
    noise = np.random.default_rng(1)
    for cell in Box.of(shape).cells(volume.grain):
        box = cell & Box.of(shape)
        volume.write(box, noise.integers(1, 256, box.shape, np.uint8))
    rows = "".join(f"{z},{z + 1},missing\n" for z in flagged)
    (folder / "flags.csv").write_text(f"z_start,z_stop,class\n{rows}")
    path = folder / "zmend.yaml"
    path.write_text(json.dumps({
        "volume": {"path": "raw.zarr"}, "flags": "flags.csv", "output": {"path": "out.zarr"}, "recipe": {"restorer": "linear"},
        "site": {"workers": 0, "slab_px": 1024}, "certificate": 0,
    }))  # fmt: skip
    return path


def taken(config: Path) -> int:
    """The most memory that a process had that ran this job."""
    found = subprocess.run([sys.executable, "-c", RUN, str(config)], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(found.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_a_process_takes_no_more_than_its_plan_says(case: str, tmp_path: Path) -> None:
    small = made(tmp_path / "small", shape=(8, 64, 64), chunks=(8, 64, 64), flagged=(3,))
    config = made(tmp_path / "large", **CASES[case])
    said = subprocess.run([sys.executable, "-m", "pipeline", "plan", str(config), "--json"], cwd=ROOT, capture_output=True, text=True, check=True)
    memory = json.loads(said.stdout)["memory"]
    grown, planned = taken(config) - taken(small), max(memory.values())
    assert 50 << 20 < grown < planned * MARGIN, f"{grown >> 20} MiB of {planned >> 20}"
    assert planned < 800 << 20, "the most that it may take, not more than that"


def test_what_slabs_left_each_other_is_gone_when_the_merge_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(*args: Any, **kw: Any) -> Any:
        seen.append(dict(worker._benches))
        return merge(*args, **kw)

    monkeypatch.setattr("pipeline.run.merge", watched)
    run(propose(load(made(tmp_path / "small", shape=(8, 64, 64), chunks=(8, 64, 64), flagged=(3,)))))
    assert seen == [{}]


class Watched(Budget):
    """Notes the most that was held."""

    most: ClassVar = (0, 0)  # bytes, by so many

    def _add(self, size: int, slabs: int) -> None:
        super()._add(size, slabs)
        Watched.most = max(Watched.most[0], self.used), max(Watched.most[1], self.held)


@pytest.mark.parametrize("grid", [{"chunks": (4, 32, 32)}, {"chunks": (1, 32, 32), "shards": (4, 64, 64)}])
def test_chunks_are_decoded_within_the_room_that_is_given(tmp_path: Path, grid: Any) -> None:
    config = made(tmp_path / "small", shape=(8, 128, 128), flagged=(), **grid)
    volume, free = (Volume.open(config.parent / "raw.zarr") for _ in range(2))
    for room in (2 * volume.piece_bytes, 1):
        Watched.most = (0, 0)
        volume.bound(Watched(room))
        np.testing.assert_array_equal(volume.read(Box.of(volume.shape)), free.read(Box.of(volume.shape)))
        assert 0 < Watched.most[0] <= max(room, volume.piece_bytes), "one alone always may"


@pytest.mark.parametrize(("room", "together"), [(1, 1), (1 << 30, 4)])
def test_a_merge_makes_as_many_chunks_at_once_as_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, together: int
) -> None:
    monkeypatch.setattr("pipeline.rewrite.MERGED", room)
    monkeypatch.setattr("pipeline.rewrite.Budget", Watched)
    Watched.most = (0, 0)
    run(propose(load(made(tmp_path / "small", shape=(8, 256, 256), chunks=(8, 32, 32), flagged=(3, 5)))))
    assert 0 < Watched.most[1] <= together
