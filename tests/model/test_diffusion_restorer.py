"""The restorer's contract with the pipeline, on a small network; then the shipped weights on real tissue."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.restorer import tflop_per_mpx
from model import metrics
from model.checkpoint import CheckpointError, locate, read_card
from model.restorer import DiffusionRestorer, RestorerError, VoxelSizeError
from model.sampler import Sampler

VNC = (47.5, 4.6, 4.6)
SIZE, HALO = 64, 16


def made(weights: Path, **options: object) -> DiffusionRestorer:
    return DiffusionRestorer(weights=str(weights), voxel_nm=VNC, **options)  # type: ignore[arg-type]


def windows(
    count: int = 2, depth: int = 4, targets: tuple[int, int] = (1, 2)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    window = rng.random((count, depth, SIZE, SIZE), np.float32)
    known = np.ones(window.shape, bool)
    known[:, targets[0] : targets[1]] = False
    known[:, targets[0], :20, :30] = True  # partly known
    return window, known, np.array([[3, 64 * i - HALO, -HALO] for i in range(count)], np.int64)


def test_importing_and_constructing_does_not_import_torch(weights: Path) -> None:
    code = (
        "import sys; from model.restorer import DiffusionRestorer as D; D(weights=sys.argv[1], voxel_nm=(47.5, 4.6, 4.6)).needs; "
        "print([m for m in ('torch', 'dask', 'zarr', 'click', 'pipeline') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code, str(weights)], capture_output=True, text=True, check=True, cwd=root
    )
    assert out.stdout.strip() == "[]"


def test_needs_are_plain_and_complete(weights: Path) -> None:
    needs = made(weights, batch=3).needs
    assert json.loads(json.dumps(needs)) == needs
    assert {k: needs[k] for k in ("name", "context", "max_gap", "batch", "one_sided")} == {
        "name": "diffusion/tiny", "context": 2, "max_gap": 3, "batch": 3, "one_sided": False}  # fmt: skip
    assert len(str(needs["digest"])) == 64
    assert (
        int(str(needs["tile"])) % int(str(needs["stride"])) == int(str(needs["halo"])) % int(str(needs["stride"])) == 0
    )


def test_the_digest_changes_with_what_changes_voxels(weights: Path) -> None:
    base = made(weights).needs["digest"]
    assert made(weights, batch=4, threads=1).needs["digest"] == base
    assert made(weights, steps=2).needs["digest"] != base
    assert made(weights, temperature=0.9).needs["digest"] != base


def test_unknown_voxels_do_not_influence_the_result(weights: Path) -> None:
    window, known, origin = windows()
    restorer = made(weights)
    clean = restorer.restore(window, known, (1, 2), origin)
    for poison in (np.nan, np.inf, -1e30, 0.7):
        assert np.array_equal(
            clean, restorer.restore(np.where(known, window, np.float32(poison)), known, (1, 2), origin)
        )


def test_context_is_copied_and_known_pixels_are_projected(weights: Path) -> None:
    window, known, origin = windows()
    out = made(weights).restore(window, known, (1, 2), origin)
    assert out.dtype == np.float32 and out.shape == window.shape
    assert np.array_equal(out[:, [0, 2, 3]], window[:, [0, 2, 3]])
    assert np.allclose(out[:, 1, :20, :30], window[:, 1, :20, :30], atol=1e-6)
    assert out.min() >= 0 and out.max() <= 1


def test_an_items_bits_do_not_depend_on_its_batch(weights: Path) -> None:
    window, known, origin = windows(3)
    restorer = made(weights, batch=2)
    together = restorer.restore(window, known, (1, 2), origin)
    for i in range(3):
        alone = restorer.restore(window[i : i + 1], known[i : i + 1], (1, 2), origin[i : i + 1])
        assert np.array_equal(together[i], alone[0])
    backwards = restorer.restore(window[::-1], known[::-1], (1, 2), origin[::-1])
    assert np.array_equal(together, backwards[::-1])


def test_reruns_agree_and_seeds_differ(weights: Path) -> None:
    window, known, origin = windows()
    first = made(weights, seed=5).restore(window, known, (1, 2), origin)
    assert np.array_equal(first, made(weights, seed=5).restore(window, known, (1, 2), origin))
    assert not np.array_equal(first, made(weights, seed=6).restore(window, known, (1, 2), origin))


@pytest.mark.parametrize(("depth", "targets"), [(3, (1, 2)), (5, (2, 3)), (6, (1, 4)), (7, (2, 5))])
def test_gaps_and_contexts_of_every_size(weights: Path, depth: int, targets: tuple[int, int]) -> None:
    window, known, origin = windows(1, depth, targets)
    out = made(weights).restore(window, known, targets, origin)
    assert np.isfinite(out).all()


def test_an_empty_batch_returns_empty(weights: Path) -> None:
    window, known, origin = windows()
    assert made(weights).restore(window[:0], known[:0], (1, 2), origin[:0]).shape == (0, 4, SIZE, SIZE)


def test_what_the_restorer_cannot_do_is_said(weights: Path) -> None:
    window, known, origin = windows()
    with pytest.raises(RestorerError, match="3 clean . 1 target . 0 clean"):
        made(weights).restore(window, known, (3, 4), origin)
    with pytest.raises(RestorerError, match="multiple of 8"):
        made(weights).restore(window[..., :60], known[..., :60], (1, 2), origin)
    with pytest.raises(RestorerError, match="origin .* .B, 3."):
        made(weights).restore(window, known, (1, 2), origin[:1])
    with pytest.raises(RestorerError, match=r"unknown restorer option temprature \(did you mean temperature\?\); the options are .*texture"):
        made(weights, temprature=0.1)
    with pytest.raises(RestorerError, match="batch 0 .* at least 1"):
        made(weights, batch=0)


def test_the_spread_comes_beside_the_very_same_restoration(weights: Path) -> None:
    window, known, origin = windows(2)
    restorer = made(weights, batch=2)
    result, spread = restorer.restore_with_spread(window, known, (1, 2), origin, 4)
    assert np.array_equal(result, restorer.restore(window, known, (1, 2), origin))
    assert spread.shape == window.shape and spread.dtype == np.float32 and np.isfinite(spread).all()
    assert not spread[:, [0, 2, 3]].any() and not spread[:, 1][known[:, 1]].any()
    assert (spread[:, 1][~known[:, 1]] > 0).all()


def test_an_items_spread_does_not_depend_on_its_batch(weights: Path) -> None:
    window, known, origin = windows(3)
    restorer = made(weights, batch=2)
    together = restorer.restore_with_spread(window, known, (1, 2), origin, 3)[1]
    for i in range(3):
        one = slice(i, i + 1)
        alone = restorer.restore_with_spread(window[one], known[one], (1, 2), origin[one], 3)[1]
        assert np.array_equal(together[i], alone[0])


def test_the_cards_factor_scales_the_spread(weights: Path) -> None:
    window, known, origin = windows(1)
    before = made(weights).restore_with_spread(window, known, (1, 2), origin, 3)[1]
    replace(read_card(weights), spread_scale=2.0).write(weights.with_suffix(".json"))
    after = made(weights).restore_with_spread(window, known, (1, 2), origin, 3)[1]
    assert np.allclose(after, 2 * before)


def test_known_pixels_do_not_thin_the_spread_of_a_crack(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws that differ by N(0, 0.1) in a crack 3 px wide have that spread, though known pixels lie all around."""
    window, known, origin = windows(1)
    known[:, 1] = True
    known[:, 1, 30:33] = False
    rng = np.random.default_rng(0)

    def drawn(self: DiffusionRestorer, w: np.ndarray, k: np.ndarray, *_: object) -> np.ndarray:
        noise = rng.normal(0, 0.1, w[:, 1:2].shape).astype(np.float32)
        return np.asarray(np.where(k[:, 1:2], w[:, 1:2], 0.5 + noise))

    monkeypatch.setattr(DiffusionRestorer, "_draw", drawn)
    spread = made(weights).restore_with_spread(window, known, (1, 2), origin, 16)[1]
    assert spread[:, 1, 30:33].mean() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_the_noise_cannot_take_is_refused(weights: Path, seed: int) -> None:
    with pytest.raises(RestorerError, match=f"seed {seed} is outside 0 .. 4294967295"):
        made(weights, seed=seed)


def test_nan_from_the_network_reaches_the_caller(weights: Path) -> None:
    """The pipeline quarantines a tile with NaN; it cannot quarantine a crash."""
    window, known, origin = windows(1)
    restorer = made(weights)
    network = restorer._loaded()
    with torch.no_grad():
        assert network.alr is not None
        network.alr.maps.plane.weight.fill_(float("nan"))
    assert np.isnan(restorer.restore(window, known, (1, 2), origin)[:, 1]).any()


def test_one_draw_has_no_spread(weights: Path) -> None:
    window, known, origin = windows()
    with pytest.raises(RestorerError, match="1 draws have no spread: ask for 2 or more"):
        made(weights).restore_with_spread(window, known, (1, 2), origin, 1)


@pytest.mark.parametrize("wrong", [{"start": "guess"}, {"solver": "euler"}])
def test_a_wrong_sampler_setting_is_refused_before_anything_is_loaded(weights: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(RestorerError, match="the sampler refuses its settings: .* is not one of"):
        made(weights, **wrong)


def test_a_voxel_size_outside_the_training_range_is_refused_with_a_remedy(weights: Path) -> None:
    with pytest.raises(VoxelSizeError, match=r"voxel size \(40, 32, 32\) nm .* y is 32, they know .* another resolution level"):
        DiffusionRestorer(weights=str(weights), voxel_nm=(40, 32, 32))
    with pytest.raises(VoxelSizeError, match=r"z is 400, they know [\d.]+ to [\d.]+ nm; train weights .* \(zmend train --help\)") as told:
        DiffusionRestorer(weights=str(weights), voxel_nm=(400, 4.6, 4.6))
    assert "y is" not in str(told.value), "what fits is not blamed, and levels of a pyramid have all the same z"


def test_damaged_weights_are_refused_at_the_first_restore(weights: Path) -> None:
    restorer = made(weights)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match="damaged or replaced"):
        restorer.restore(*windows()[:2], (1, 2), windows()[2])


def test_a_restored_megapixel_costs_at_most_two_teraflop() -> None:
    """All evaluations of the shipped default together, by torch's own counter."""
    sampler = Sampler(**read_card(locate("default")).sampler)
    assert sampler.steps * tflop_per_mpx() <= 2.0


# ---- the shipped weights on real, held-out tissue --------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> DiffusionRestorer:
    return DiffusionRestorer(voxel_nm=VNC)


def real(folder: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Sections 14-18 of the test part, section 16 missing: (1, 5, size, size), and its membranes."""
    with np.load(folder / "vnc_stack1.npz") as arrays:
        return arrays["raw"][None, 14:19, :size, :size] / np.float32(255), arrays["membranes"][16, :size, :size].astype(
            bool
        )


def missing(window: np.ndarray) -> np.ndarray:
    known = np.ones(window.shape, bool)
    known[:, 2] = False
    return known


def test_two_tilings_agree_within_a_grey_level(shipped: DiffusionRestorer, data_folder: Path) -> None:
    """Neighbouring tiles, each with the declared halo: where both are valid (their shared core edge), they agree."""
    halo = int(str(shipped.needs["halo"]))
    window, _ = real(data_folder, 2 * halo + 224)
    n = 2 * halo + 192
    a, b = window[..., :n, :n], window[..., 32 : 32 + n, 32 : 32 + n]
    one = shipped.restore(a, missing(a), (2, 3), np.array([[14, 0, 0]]))[0, 2]
    two = shipped.restore(b, missing(b), (2, 3), np.array([[14, 32, 32]]))[0, 2]
    inner = slice(32 + halo, n - halo)
    other = slice(halo, n - halo - 32)
    assert np.abs(one[inner, inner] - two[other, other]).max() * 255 <= 1.0


def test_the_default_output_beats_the_average_in_detail_and_membranes(
    shipped: DiffusionRestorer, data_folder: Path
) -> None:
    window, membranes = real(data_folder, 320)
    with np.load(data_folder / "vnc_stack1.npz") as arrays:  # the classifier sees training sections only
        images, lines = (arrays[k][4:14:3, :512, :512] for k in ("raw", "membranes"))
    classifier = metrics.MembraneClassifier.fit(list(images / np.float32(255)), list(lines.astype(bool)))
    restored = shipped.restore(window, missing(window), (2, 3), np.array([[14, 0, 0]]))[0, 2]
    truth, average = window[0, 2], (window[0, 1] + window[0, 3]) / 2
    assert metrics.power_ratio(truth, restored) > metrics.power_ratio(truth, average)
    assert metrics.f1(membranes, classifier(restored)) > metrics.f1(membranes, classifier(average))
