"""A volume that grows in z: what was there stays, and the end is a store as if it had been made in one go."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.config import load
from pipeline.job import propose
from pipeline.run import run
from pipeline.verify import verify
from tests.growing import Growing
from tests.jobs import TOY, tissue
from tests.stores import kind

SHAPE = (21, 120, 110)
NIGHTS = (  # sections there are, lines of flags, slabs that are worked on
    (9, ["2,3,missing", "8,9,blank"], [2, 8]),  # the last section cannot be restored yet
    (14, ["2,3,missing", "8,9,blank", "12,13,fold"], [8, 12]),
    (15, ["2,3,missing", "8,9,blank", "12,13,fold"], [12]),  # it reads two sections further, and now there is one more
    (21, ["2,3,missing", "8,9,blank", "12,13,fold", "17,19,missing"], [17]),
)


def content(out: Path) -> dict[str, Any]:
    """Every byte of the arrays; of records what does not tell when and under which plan they were made."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = path.relative_to(out).as_posix()
        if name.startswith(("zmend/records/retired", "zmend/kept", "zmend/runs", "zmend/plans", "zmend/flags")) or name in ("zmend/merge.json", "zmend/seal.json"):
            continue
        body: Any = hashlib.sha256(path.read_bytes()).hexdigest()
        if name.startswith("zmend/records/"):
            record = json.loads(path.read_text())
            body = {k: v for k, v in record.items() if k not in ("run", "plan", "flags", "seconds", "bytes_read", "digest")}
        found[name] = body
    return found


def config(folder: Path, out: str, flags: list[str]) -> Path:
    (folder / "flags.csv").write_text("\n".join(["z_start,z_stop,class", *flags, ""]))
    body = {
        "volume": {"path": "raw.zarr"}, "flags": "flags.csv", "output": {"path": out, "chunk_px": 64},
        "recipe": {"restorer": TOY, "intensity": [0, 255]}, "site": {"workers": 0, "slab_px": 128},
    }  # fmt: skip
    (folder / "zmend.yaml").write_text(yaml.safe_dump(body))
    return folder / "zmend.yaml"


@pytest.mark.parametrize(
    ("name", "steps"),
    [("ome05", ((2, 2, 2), (2, 2, 2))), ("ome04-tczyx-u2", ((1, 2, 2), (2, 2, 2))), ("ome05-sharded-u2", ((2, 2, 2),)), ("v2", ())],
)
def test_nights_of_growth_end_as_one_go(name: str, steps: tuple, tmp_path: Path) -> None:
    layout = kind(name)
    voxels = tissue(SHAPE).astype(np.dtype(layout.dtype).newbyteorder("="))
    source = Growing(tmp_path / "raw.zarr", layout, voxels, NIGHTS[0][0], steps)
    for depth, flags, wanted in NIGHTS:
        if depth > NIGHTS[0][0]:
            source.grow(depth)
        events: list[dict[str, Any]] = []
        run(propose(load(config(tmp_path, "grown.zarr", flags))), on_event=events.append)
        done = sorted({e["write"][0][0] for e in events if e["kind"] == "slab"})
        assert done == wanted, depth
        assert not [e for e in events if e["kind"] == "warning"], "it has grown, and that is all"
        found = verify(str(tmp_path / "grown.zarr"))
        assert found["ok"], [c for c in found["checks"] if not c["ok"]]
    run(propose(load(config(tmp_path, "once.zarr", NIGHTS[-1][1]))))
    grown, once = content(tmp_path / "grown.zarr"), content(tmp_path / "once.zarr")
    assert grown.keys() == once.keys()
    assert {n for n in grown if grown[n] != once[n]} == set()
