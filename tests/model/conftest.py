"""Shared by the tests of model/: a network small enough for milliseconds, and the real data where it is present."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.checkpoint import Card, export
from tests.model.tiny import DATA, TINY, alive


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A weights file with its card, as `train --export` writes it."""
    path = tmp_path / "tiny.safetensors"
    card = Card("tiny", "", TINY.to_dict(), {"steps": 3}, [], "test", {}, tile=32, halo=16, stride=TINY.stride)
    export(path, dict(alive().state_dict()), card)
    return path


@pytest.fixture
def data_folder() -> Path:
    if not (DATA / "manifest.json").exists():
        pytest.skip(f"the training and test stacks are not at {DATA}")
    return DATA


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two OpenMP threads that share a core with anything else wait for each other ten times longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
