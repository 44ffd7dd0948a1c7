"""environment.yml, pyproject.toml and constraints.txt say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"matplotlib": "matplotlib-base", "opencv-python-headless": "opencv", "torch": "pytorch-gpu"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = [Requirement(r) for r in PROJECT["dependencies"]]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().lower().split() if "==" in line)
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
CONDA_PINS = dict(re.split("=+", d, maxsplit=1) for d in CONDA if isinstance(d, str) and "=" in d)


@pytest.mark.parametrize("requirement", REQUIRED, ids=lambda r: r.name)
def test_every_dependency_is_pinned_alike(requirement: Requirement) -> None:
    pinned = PINS[requirement.name.lower()]
    assert Version(pinned) in requirement.specifier, "constraints.txt leaves the bounds of pyproject.toml"
    conda = CONDA_PINS[CONDA_NAMES.get(requirement.name, requirement.name)]
    assert pinned == conda or pinned.startswith(conda + "."), "environment.yml pins another version"


def test_environment_names_nothing_that_the_project_does_not_need() -> None:
    wanted = {CONDA_NAMES.get(r.name, r.name) for r in REQUIRED} | {"python", "dask-cuda"}
    assert set(CONDA_PINS) == wanted


def test_dask_cuda_is_the_release_whose_dask_we_pin() -> None:
    extra = Requirement(PROJECT["optional-dependencies"]["gpu"][0])
    assert extra.name == "dask-cuda"
    assert Version(CONDA_PINS["dask-cuda"] + ".0") in extra.specifier
    assert PINS["dask"] == PINS["distributed"] == "2026.7.1"


def test_python_is_one_that_pyproject_allows() -> None:
    assert PROJECT["requires-python"] == f">={CONDA_PINS['python']}"


def test_make_env_installs_torch_first_and_from_the_constraints() -> None:
    recipe = (ROOT / "Makefile").read_text()
    assert f"torch=={PINS['torch']}" in recipe
    assert recipe.index("torch==") < recipe.index("-e '.[dev")
