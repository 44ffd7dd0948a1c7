"""Every metric against its definition in a few lines."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from model import metrics

RNG = np.random.default_rng(0)
TRUTH = ndimage.gaussian_filter(RNG.random((128, 128)), 1)
NOISY = np.clip(TRUTH + 0.05 * RNG.standard_normal(TRUTH.shape), 0, 1)


def test_psnr_is_the_mean_squared_error_in_db() -> None:
    assert metrics.psnr(TRUTH, TRUTH + 0.1) == pytest.approx(20.0)


def test_ssim_of_itself_is_one_and_of_noise_is_less() -> None:
    assert metrics.ssim(TRUTH, TRUTH) == pytest.approx(1.0)
    assert metrics.ssim(TRUTH, NOISY) < 0.9


def test_ncc_is_pearsons_correlation() -> None:
    assert metrics.ncc(TRUTH, NOISY) == pytest.approx(float(np.corrcoef(TRUTH.ravel(), NOISY.ravel())[0, 1]))
    assert metrics.ncc(TRUTH, -3 * TRUTH + 7) == pytest.approx(-1.0)
    assert metrics.ncc(TRUTH, np.ones_like(TRUTH)) == 0.0
    assert metrics.ncc(TRUTH, NOISY, 8) > metrics.ncc(TRUTH, NOISY, 1)


def test_binning_is_the_mean_of_blocks() -> None:
    assert metrics.binned(np.arange(16.0).reshape(4, 4), 2).tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_power_ratio_sees_amplitude_and_blur() -> None:
    assert metrics.power_ratio(TRUTH, TRUTH) == pytest.approx(1.0)
    assert metrics.power_ratio(TRUTH, 0.5 * TRUTH) == pytest.approx(0.25)
    assert metrics.power_ratio(TRUTH, ndimage.gaussian_filter(TRUTH, 4)) < 0.01
    other = RNG.random((256, 256)), RNG.random((256, 256))
    assert metrics.power_ratio(other[0], (other[0] + other[1]) / 2) == pytest.approx(0.5, abs=0.02)


def test_ring_correlation_of_itself_is_one_and_of_noise_is_none() -> None:
    assert np.allclose(metrics.frc(TRUTH, TRUTH), 1.0)
    assert abs(metrics.frc(RNG.random((256, 256)), RNG.random((256, 256)))[4:].mean()) < 0.05


def test_cutoff_is_where_the_shared_detail_ends() -> None:
    shared, own = RNG.standard_normal((2, 256, 256)), RNG.standard_normal((2, 256, 256))
    r = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256))
    a, b = (np.fft.ifft2(np.where(r < 0.2, np.fft.fft2(shared[0]), np.fft.fft2(o))).real for o in own)
    assert metrics.frc_cutoff(a, b) == pytest.approx(0.2, abs=0.03)
    assert metrics.frc_cutoff(a, a) == 0.5


def test_f1_by_hand() -> None:
    truth, found = np.array([True, True, True, False]), np.array([True, True, False, True])
    assert metrics.f1(truth, found) == pytest.approx(2 * 2 / (3 + 3))
    assert metrics.f1(~truth & truth, ~truth & truth) == 1.0


def test_the_membrane_classifier_finds_lines_and_misses_them_in_a_blur() -> None:
    images, lines = zip(*(drawn(seed) for seed in range(3)), strict=True)
    classifier = metrics.MembraneClassifier.fit(images, lines)
    image, line = drawn(9)
    sharp, blurred = (metrics.f1(line, classifier(i)) for i in (image, ndimage.gaussian_filter(image, 4)))
    assert sharp > 0.7 and blurred < 0.5 * sharp


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Dark contour lines of a smooth field on a noisy bright ground."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((128, 128)), 10)
    line = ndimage.binary_dilation(np.abs(field) < 0.002)
    return np.clip(0.6 - 0.35 * line + 0.05 * rng.standard_normal(line.shape), 0, 1), line
