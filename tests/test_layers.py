"""The import contracts notice what they forbid."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def contracts(folder: Path) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([str(tool), "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("pipeline/box.py", "import pipeline.run", "pipeline layers BROKEN"),
        ("pipeline/plan.py", "import zarr", "a plan is arithmetic BROKEN"),
        ("pipeline/slab.py", "import torch", "pipeline never sees torch BROKEN"),
        ("pipeline/merge.py", "import dask", "only crew, flight and cluster know dask BROKEN"),
        ("model/data.py", "import zarr", "model never sees clusters, stores or terminals BROKEN"),
        ("model/data.py", "import pipeline.box", "pipeline and model are strangers BROKEN"),
    ],
)
def test_a_planted_violation_is_caught(file: str, line: str, contract: str, tmp_path: Path) -> None:
    for name in ("pipeline", "model"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    target = tmp_path / file
    target.write_text(target.read_text() + f"\n{line}  # planted\n")
    found = contracts(tmp_path)
    assert contract in found.stdout, found.stdout + found.stderr
    assert found.returncode == 1


def test_the_contracts_are_kept() -> None:
    assert contracts(ROOT).returncode == 0


def test_the_design_draws_the_layers_that_are_checked() -> None:
    drawn = " ".join((ROOT / "DESIGN.md").read_text().split())
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    for contract in contracts:
        if contract["type"] == "layers":
            assert f"{contract['containers'][0]}: {' > '.join(contract['layers'])}" in drawn
