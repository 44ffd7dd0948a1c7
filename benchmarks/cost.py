"""Whether `zmend plan --calibrate` foretells what runs take: calibrated and run, round after round, as commands.

The ratio of what a run took to what was foreseen right before it, and the bytes: decoded ones that slabs read, and stored
ones that they and the merge write. GOAL is how far the ratio of times may be from 1.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

GOAL = 0.2
CASES: dict[str, dict[str, Any]] = {
    "linear, 2 workers": {"edge": 4096, "sections": range(2, 38, 3), "rounds": 2, "config": {
        "recipe": {"restorer": "linear"}, "site": {"workers": 2, "slab_px": 1024}, "output": {"mode": "volume"}}},
    "diffusion, 1 worker": {"edge": 512, "sections": [4, 8], "rounds": 1, "config": {
        "recipe": {"restorer": "diffusion"}, "site": {"workers": 1, "slab_px": 512}, "output": {"mode": "overlay"}}},
}  # fmt: skip


def measure() -> dict[str, Any]:
    """Rounds of each case: the forecast, then the run."""
    rows = []
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            _make(Path(folder), case)
            for number in range(case["rounds"]):
                rows.append({"case": name, **_round(Path(folder), case["config"], number)})
    medians = {name: round(statistics.median(r["took_over_foreseen"] for r in rows if r["case"] == name), 2) for name in CASES}
    return {"goal": GOAL, "rows": rows, "took_over_foreseen": medians}


def _make(folder: Path, case: dict[str, Any]) -> None:
    from benchmarks import tissue

    missing = tuple(case["sections"])
    tissue.make(str(folder / "raw.zarr"), (40, case["edge"], case["edge"]), tissue.Layout("8 deep", (8, 512, 512)), missing)
    tissue.flags(folder / "flags.csv", missing)


def _round(folder: Path, config: dict[str, Any], number: int) -> dict[str, Any]:
    out = f"out{number}.zarr"
    body = {"volume": {"path": "raw.zarr"}, "flags": "flags.csv", **config, "output": {**config["output"], "path": out}}
    (folder / "zmend.yaml").write_text(yaml.safe_dump(body))
    said = _zmend(folder, "plan", "zmend.yaml", "--calibrate")["cost"]
    done = _zmend(folder, "run", "zmend.yaml")
    return {
        "foreseen_s": said["wall_s"],
        "range_s": [said["low_s"], said["high_s"]],
        "took_s": round(done["seconds"], 1),
        "took_over_foreseen": round(done["seconds"] / said["wall_s"], 2),
        "in_range": said["low_s"] <= done["seconds"] <= said["high_s"],
        "mb_written": round(done["bytes_written"] / 1e6, 1),
        "mb_foreseen": round((said["bytes_written"] + said["merge_bytes_written"]) / 1e6, 1),
    }


def _zmend(folder: Path, *args: str) -> Any:
    command = [sys.executable, "-m", "pipeline", *args, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    columns = ("case", "foreseen_s", "range_s", "took_s", "took_over_foreseen", "in_range", "mb_foreseen", "mb_written")
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(str(r[c]) for c in columns) + " |" for r in found["rows"]]
    ratios = ", ".join(f"{name}: {ratio}" for name, ratio in found["took_over_foreseen"].items())
    return f"Took over foreseen, medians: {ratios}; the goal is 1 within {found['goal']:.0%}.\n\n" + "\n".join(lines) + "\n"
