"""Scout and spotter as scans run them: OpenCV, in threads, on the networks of the card and on no others."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.defects import DEFECTS
from model.spotter import hints
from pipeline import detectors as see
from pipeline import spotter
from pipeline.detect import detect
from pipeline.errors import InputError
from pipeline.places import Region, Shown, _beside, _doubtful, _seen
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
    cells = see.cells(spotter.whole(image))
    assert cells.shape == (3, 12, 16)  # mirrored to 48 by 64
    square = image[4:8, 8:12]
    assert cells[1, 1, 2] == square.max() and cells[2, 1, 2] == square.min() and abs(int(cells[0, 1, 2]) - square.mean()) <= 1


def test_the_scout_is_shown_what_it_learned_from() -> None:
    images = np.random.default_rng(0).integers(60, 180, (3, 96, 128)).astype(np.uint8)
    images[1, 30:60, 40:70] = 250
    images[1, 70:80, 70:90] = 5
    looks = [(120.0, 30.0), (110.0, 40.0), (130.0, 25.0)]
    shown = spotter.hints(*(spotter.steps(see.cells(i), *look) for i, look in zip(images, looks, strict=True)))
    units = np.stack([spotter.units(i, *look) for i, look in zip(images, looks, strict=True)])
    learned = hints(torch.from_numpy(units)[None])[0].numpy()
    assert shown.shape == learned.shape and shown[:8].max() > 1
    assert np.abs(shown - learned).max() <= 1.5 / spotter.STEPS, "bytes are rounded"


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


def spots(many: int, sure: float) -> list[Finding]:
    """Blobs 14 px wide, far from each other, of which the spotter says that they are dirt."""
    chances = np.zeros((4, 256, 256), np.float32)
    for n in range(many):
        y, x = 10 + 40 * (n // 6), 10 + 40 * (n % 6)
        chances[2, y : y + 14, x : x + 14] = sure
    cells = chances.reshape(4, 64, 4, 64, 4).transpose(0, 2, 4, 1, 3)
    image = tissue(1, 256)[0]
    here = Shown(image, see.Looks(128.0, 100.0, 150.0, 25.0, 5.0, 5.0, 1.0, 0.0), image)
    return list(_seen(3, here, [Region((0, 0), cells)], Thresholds(), 1.0))


def test_one_spot_is_a_speck_and_many_are_contamination() -> None:
    t, one = Thresholds(), 14 * 14 * 0.8
    assert t.alike * t.contamination < one < t.contamination
    assert spots(1, 0.9) == [] and spots(3, 0.9) == []
    (found,) = spots(4, 0.9)
    assert found.kind == "contamination" and found.score == pytest.approx(4 * one / t.together / t.contamination, rel=0.01)
    assert found.mask is not None and found.mask.sum() == 4 * 14 * 14
    assert spots(20, 0.6) == [], "places that are hardly more likely damaged than not do not add up"


def test_one_looks_closer_around_what_is_as_likely_damaged_as_not() -> None:
    doubt = np.zeros((12, 12), np.float32)
    doubt[2, 2:5], doubt[2, 3], doubt[8, 8] = 0.3, 0.6, 0.4
    assert np.array_equal(_beside(doubt), np.isin(doubt, np.float32([0.3, 0.6])))


def test_many_places_of_less_doubt_are_looked_at_too() -> None:
    t, doubt = Thresholds(), np.zeros((12, 12), np.float32)
    doubt[2, 2:5], doubt[8, 2:5] = 0.75, 0.65
    assert np.array_equal(_doubtful(doubt, t), doubt == np.float32(0.75))
    doubt[8, :] = doubt[9, :] = 0.65
    assert _doubtful(doubt, t)[8:10].all()
    assert not _doubtful(np.full((1, 2), 0.9, np.float32), t).any(), "too few"
    low = Thresholds.at(0.5)
    assert low.doubt > 1 and _doubtful(np.full((3, 3), 0.99, np.float32), low).all(), "nothing is beyond all doubt"


def test_networks_are_kept_for_few_sizes_and_say_the_same_as_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spotter, "_own", SimpleNamespace())
    monkeypatch.setattr(spotter, "MOST_SIZES", 3)
    rng = np.random.default_rng(0)
    sizes = [(32, 48), (48, 48), (64, 32), (112, 64), (32, 48), (144, 32), (80, 96), (32, 48)]
    images = {size: rng.standard_normal((3, *size)).astype(np.float32) for size in sizes}
    first = {size: spotter.see(*images[size]) for size in sizes}
    kept = spotter._own.__dict__["spotter.onnx"]
    assert len(kept) == 3 and (1, 3, 32, 48) in kept and (1, 3, 144, 32) not in kept
    for size in sizes:
        monkeypatch.setattr(spotter, "_own", SimpleNamespace())
        assert np.allclose(spotter.see(*images[size]), first[size], atol=1e-5)
