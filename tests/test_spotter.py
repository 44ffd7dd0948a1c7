"""Scout and spotter as scans run them: OpenCV, in threads, on the networks of the card and on no others."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from benchmarks.defects import DEFECTS
from pipeline import spotter
from pipeline.detect import detect
from pipeline.errors import InputError
from pipeline.thresholds import Thresholds
from pipeline.view import Finding
from tests.test_detect import tissue

Z = 5


@pytest.fixture(scope="module")
def torn() -> tuple[np.ndarray, np.ndarray]:
    stack = tissue(11, 320)
    stack[Z], mask = DEFECTS["crack"][0](stack[Z], stack[Z - 1], 1, np.random.default_rng(2))
    assert mask is not None
    return stack, mask


def found(stack: np.ndarray) -> list[Finding]:
    return detect(stack, [False] * len(stack), Thresholds())[0]


def test_cells_are_mean_greatest_and_least_of_squares() -> None:
    image = np.random.default_rng(0).integers(0, 256, (35, 50)).astype(np.uint8)
    cells = spotter.cells(image)
    assert cells.shape == (3, 12, 16)  # mirrored to 48 by 64
    square = image[4:8, 8:12]
    assert cells[1, 1, 2] == square.max() and cells[2, 1, 2] == square.min() and abs(cells[0, 1, 2] - square.mean()) <= 0.5


def test_the_scout_looks_where_the_damage_is_and_the_spotter_nowhere_else(
    torn: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, mask = torn
    looked: list[int] = []
    see = spotter.see
    monkeypatch.setattr(spotter, "see", lambda *images: looked.append(images[1].size) or see(*images))
    (crack,) = [f for f in found(stack) if f.kind == "crack"]
    assert crack.z == Z and crack.mask is not None
    assert (crack.mask & mask).sum() > 0.5 * (crack.mask | mask).sum()
    assert 0 < sum(looked) < 0.5 * stack.size
    monkeypatch.setattr(spotter, "doubt", lambda *_: np.zeros((20, 20), np.float32))
    looked.clear()
    assert found(stack) == [] and not looked


def test_where_everything_is_looked_at_nothing_more_is_found(
    torn: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = found(torn[0])
    monkeypatch.setattr(spotter, "doubt", lambda *_: np.ones((20, 20), np.float32))
    every = found(torn[0])
    assert [(f.z, f.kind) for f in every] == [(f.z, f.kind) for f in some] != []
    one, all_of_it = some[0].mask, every[0].mask
    assert one is not None and all_of_it is not None
    assert (one & all_of_it).sum() > 0.95 * (one | all_of_it).sum()


def test_at_another_sensitivity_the_scout_is_asked_otherwise(torn: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    see = spotter.see
    monkeypatch.setattr(spotter, "see", lambda *images: looked.append(images[1].size) or see(*images))
    areas = []
    for sensitivity in ("0.5", "medium", "2"):
        detect(torn[0], [False] * len(torn[0]), Thresholds.at(sensitivity))
        areas.append(sum(looked))
        looked.clear()
    assert areas[0] < areas[1] < areas[2]


def test_threads_do_not_disturb_one_another(torn: tuple[np.ndarray, np.ndarray]) -> None:
    expected = [(f.z, f.kind, f.score) for f in found(torn[0])]
    with ThreadPoolExecutor(4) as pool:
        for one in pool.map(found, [torn[0]] * 4):
            assert [(f.z, f.kind, f.score) for f in one] == expected


@pytest.mark.parametrize("name", ["scout.onnx", "spotter.onnx"])
def test_a_network_that_is_not_the_cards_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(spotter.WEIGHTS, tmp_path / "weights")
    path = tmp_path / "weights" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    monkeypatch.setattr(spotter, "WEIGHTS", tmp_path / "weights")
    spotter._content.cache_clear()
    with pytest.raises(InputError, match="is not the one of its card") as refused:
        spotter._content(name)
    assert str(path) in str(refused.value) and "install zmend again" in str(refused.value)
    spotter._content.cache_clear()


def test_the_card_names_data_and_terms() -> None:
    card = json.loads((spotter.WEIGHTS / "spotting.json").read_text())
    assert {d["name"] for d in card["data"]} == {"vnc_stack1", "vnc_stack2_z00_09", "isbi2012_train", "fib25_train1"}
    assert "CC BY-NC-SA" in card["licence"] and "0-13" in {d["sections"] for d in card["data"]}, "test parts were left out"
