"""Profiles, segments, their agreement and their links, on drawings whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from model import segmentation as s


def stripes(shift: int = 0, count: int = 4, edge: int = 96) -> np.ndarray:
    """Membranes: vertical lines 4 px wide every edge/count px, shifted."""
    x = (np.arange(edge) - shift) % (edge // count)
    return np.broadcast_to(x < 4, (edge, edge)).copy()


def score(membranes: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(membranes.astype(np.float32), 1)


def test_profiles_are_four_connected() -> None:
    assert s.profiles(np.eye(5, dtype=bool)).max() == 2
    assert not s.profiles(np.ones((4, 4), bool)).any()


def test_segments_find_what_the_membranes_enclose() -> None:
    membranes = stripes()
    found = s.segments(score(membranes))
    assert found.min() == 1 and found.max() == s.profiles(membranes).max()
    assert s.agreement(s.profiles(membranes), found)["voi"] == pytest.approx(0, abs=1e-6)


def test_a_faint_membrane_joins_its_neighbours() -> None:
    assert s.segments(0.2 * score(stripes())).max() == 1


def test_a_smaller_depth_finds_fainter_membranes() -> None:
    faint = 0.2 * score(stripes())
    assert s.segments(faint, 0.05).max() == s.profiles(stripes()).max()


def test_filling_gives_membranes_to_the_nearest_profile() -> None:
    assert s.filled(np.array([[1, 0, 0, 0, 2]], np.int32))[0, [0, 1, 3, 4]].tolist() == [1, 1, 2, 2]
    assert not s.filled(np.zeros((3, 3), np.int32)).any()


def entropy(labels: np.ndarray) -> float:
    share = np.unique(labels, return_counts=True)[1] / labels.size
    return float(-(share * np.log2(share)).sum())


def test_agreement_against_its_definition() -> None:
    rng = np.random.default_rng(0)
    truth, found = rng.integers(1, 5, (2, 40, 40)).astype(np.int32)
    joint = entropy(truth * 10 + found)
    got = s.agreement(truth, found)
    assert got["voi_split"] == pytest.approx(joint - entropy(truth))
    assert got["voi_merge"] == pytest.approx(joint - entropy(found))
    table = s.overlaps(truth, found).astype(float)
    pairs, rows, columns = (float((t**2).sum() - t.sum()) for t in (table, table.sum(1), table.sum(0)))
    precision, recall = pairs / columns, pairs / rows
    assert got["arand"] == pytest.approx(1 - 2 * precision * recall / (precision + recall))


def test_splits_and_merges_are_told_apart_and_membranes_are_not_counted() -> None:
    truth = np.repeat([[1, 1, 2, 2]], 4, 0).astype(np.int32)
    assert s.agreement(truth, np.ones_like(truth))["voi_merge"] == pytest.approx(1)
    assert s.agreement(truth, np.arange(1, 5, dtype=np.int32) * np.ones_like(truth))["voi_split"] == pytest.approx(1)
    drawn = truth.copy()
    drawn[:, 0] = 0
    found = truth.copy()
    found[:, 0] = 9
    assert s.agreement(drawn, found)["voi"] == 0
    where = np.zeros(truth.shape, bool)
    where[:, :2] = True
    assert s.agreement(truth, np.ones_like(truth), where)["voi"] == 0


def test_overlaps_and_partners_by_hand() -> None:
    a, b = np.array([[1, 1, 1, 2, 0]], np.int32), np.array([[0, 3, 3, 0, 3]], np.int32)
    table = s.overlaps(a, b)
    assert table[1].tolist() == [1, 0, 0, 2] and table[2].tolist() == [1, 0, 0, 0]
    assert s.partners(table).tolist() == [0, 3, 0]


@pytest.mark.parametrize("gap", [1, 2, 3])
def test_restored_sections_carry_links_over_a_drift_that_direct_overlap_gets_wrong(gap: int) -> None:
    drift = 7 if gap > 1 else 14  # stripes are 24 px wide: across the gap they move on to the next one
    planes = [stripes(drift * z, edge=192, count=8)[:, 48:144] for z in range(gap + 2)]
    labels = [s.profiles(p) for p in planes]
    true = s.true_links(labels[0], np.stack(labels[1:-1]), labels[-1])
    scores = np.stack([score(p) for p in planes[1:-1]])
    through = s.links_through(labels[0], labels[-1], scores, 0.5)
    direct = s.direct_links(labels[0], labels[-1])
    wrong = [s.wrong_links(found, true, labels[0]) for found in (true, through, direct)]
    assert len(wrong[0]) >= 3 and not wrong[0].any()
    assert wrong[2].any() and wrong[1].sum() < wrong[2].sum()


def test_small_and_ending_profiles_are_not_counted() -> None:
    before = np.zeros((60, 60), np.int32)
    before[:30, :30], before[40:45, 40:45], before[30:, :30] = 1, 2, 3
    true = np.array([0, 1, 1, 0])  # profile 2 is small, profile 3 ends in the gap
    assert s.wrong_links(np.array([0, 5, 5, 5]), true, before).tolist() == [True]


def test_a_carried_profile_keeps_its_label_even_when_thin() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[:, :20], labels[:, 30:32] = 1, 2
    out = s.carried(labels, np.zeros((40, 40), np.float32), 0.5)
    assert set(np.unique(out)) == {1, 2} and out[5, 5] == 1 and out[5, 31] == 2
