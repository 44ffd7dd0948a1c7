"""Image metrics that need no downloaded weights. Images are float arrays (H, W) in [0, 1].

PSNR and SSIM hardly see detail at 4-5 nm (a blurred average wins), so they never stand alone: high-frequency power,
membrane F1 and Fourier ring correlation stand beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.metrics import structural_similarity

Image = npt.NDArray[np.floating]
_BAND = (0.125, 0.5)  # cycles per pixel: textures and membrane edges at 4-10 nm
_ROWS = 16384  # pixels classified at once: their 153 features fit the cache
_THIN = 13  # every 13th pixel is enough to fit 153 numbers, and no divisor of a row
_SCALES = (1.0, 2.0, 4.0, 8.0)  # pixels; of the membrane classifier's features


def psnr(truth: Image, image: Image) -> float:
    """Peak signal-to-noise ratio in dB for a data range of 1; infinite for equal images."""
    error = float(np.mean((np.asarray(truth, float) - image) ** 2))
    return float(-10 * np.log10(error)) if error else float("inf")


def ssim(truth: Image, image: Image) -> float:
    """Structural similarity (Wang et al. 2004) as scikit-image computes it."""
    return float(structural_similarity(np.asarray(truth, float), np.asarray(image, float), data_range=1.0))


def binned(image: Image, factor: int) -> Image:
    """Mean over factor x factor blocks; a ragged edge is dropped."""
    h, w = (n // factor * factor for n in image.shape)
    return np.asarray(image[:h, :w].reshape(h // factor, factor, w // factor, factor).mean((1, 3)))


def ncc(truth: Image, image: Image, factor: int = 1) -> float:
    """Pearson correlation after binning by `factor`; 0 where an image is constant."""
    a, b = binned(truth, factor).ravel(), binned(image, factor).ravel()
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / scale) if scale > 1e-12 else 0.0


def _frequency(shape: tuple[int, ...]) -> Image:
    """Cycles per pixel of each Fourier coefficient."""
    return np.asarray(np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None, :]))


def _spectrum(image: Image) -> npt.NDArray[np.complex128]:
    """Fourier transform under a Hann window, so that the image's edges do not count as detail."""
    window = np.hanning(image.shape[0])[:, None] * np.hanning(image.shape[1])[None, :]
    return np.asarray(np.fft.fft2((image - image.mean()) * window))


def band_energy(image: Image) -> Image:
    """Squared detail at 0.125-0.5 cycles per pixel of each pixel, (H, W), under the Hann window.

    Its sum is the band's power (Parseval), so that power can be told for parts of a section.
    """
    r = _frequency(image.shape)
    kept = np.where((r >= _BAND[0]) & (r <= _BAND[1]), _spectrum(image), 0)
    return np.asarray(np.fft.ifft2(kept).real ** 2)


def power_ratio(truth: Image, image: Image) -> float:
    """Power of `image` over that of `truth` at 0.125-0.5 cycles per pixel: 1 = as much detail, 0.01 = blurred."""
    return float(band_energy(image).sum() / band_energy(truth).sum())


def brightness_step(image: Image, neighbours: Sequence[Image], where: npt.NDArray[np.bool_]) -> float:
    """|mean of the image - mean of its neighbours' means| in grey levels of 255, over the pixels `where`.

    Real sections differ in brightness: compare a restored section's step with the real one's.
    """
    beside = np.mean([float(n[where].mean()) for n in neighbours])
    return float(255 * abs(float(image[where].mean()) - beside))


def seam(truth: Image, image: Image, where: npt.NDArray[np.bool_]) -> float:
    """Mean |grey difference| of pixel pairs across the rim of `where`, over the truth's: 1 = no seam; NaN without rim.

    image (H, W) must hold the known pixels outside `where`.
    """
    total = {"image": 0.0, "truth": 0.0}
    for axis in (0, 1):
        rim = np.diff(where.astype(np.int8), axis=axis) != 0
        for name, values in (("image", image), ("truth", truth)):
            total[name] += float(np.abs(np.diff(np.asarray(values, float), axis=axis))[rim].sum())
    return total["image"] / total["truth"] if total["truth"] else float("nan")


def frc(truth: Image, image: Image, rings: int = 32) -> npt.NDArray[np.float64]:
    """Fourier ring correlation in `rings` equal rings from 0 to 0.5 cycles per pixel."""
    a, b = _spectrum(truth), _spectrum(image)
    ring = np.minimum((_frequency(truth.shape) * 2 * rings).astype(int), rings).ravel()

    def total(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.bincount(ring, values.ravel(), rings + 1)[:rings], float)

    scale = np.sqrt(total(np.abs(a) ** 2) * total(np.abs(b) ** 2))
    return np.asarray(total((a * b.conj()).real) / np.maximum(scale, 1e-12))


def frc_cutoff(truth: Image, image: Image, threshold: float = 1 / 7) -> float:
    """First frequency (cycles per pixel) at which the ring correlation falls below `threshold`; 0.5 if none."""
    curve = frc(truth, image)
    low = np.flatnonzero(curve < threshold)
    return float(low[0] / (2 * len(curve))) if len(low) else 0.5


# ---- membranes ------------------------------------------------------------------------------------------------------


def features(image: Image) -> npt.NDArray[np.float32]:
    """Per-pixel features at four scales: smoothed grey, edge strength, the two Hessian eigenvalues; (H*W, 17)."""
    x = np.asarray(image, np.float32)
    columns = [np.ones_like(x)]
    for s in _SCALES:
        yy, xx = ndimage.gaussian_filter(x, s, (2, 0)), ndimage.gaussian_filter(x, s, (0, 2))
        xy = ndimage.gaussian_filter(x, s, (1, 1))
        middle, spread = (yy + xx) / 2, np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
        edge = ndimage.gaussian_gradient_magnitude(x, s)
        columns += [ndimage.gaussian_filter(x, s), s * edge, s * s * (middle + spread), s * s * (middle - spread)]
    return np.stack([c.ravel() for c in columns], 1)


def f1(truth: npt.NDArray[np.bool_], found: npt.NDArray[np.bool_]) -> float:
    """Harmonic mean of precision and recall of the True pixels."""
    total = int(truth.sum()) + int(found.sum())
    return 2 * int((truth & found).sum()) / total if total else 1.0


@dataclass(frozen=True, slots=True)
class MembraneClassifier:
    """Ridge regression from features and their products to "membrane", trained on real sections and then left alone.

    It never sees a restored image in training: an image that looks right to it has membranes where, and as sharp as,
    real sections have them.
    """

    weights: npt.NDArray[np.float64]
    threshold: float

    @classmethod
    def fit(
        cls, images: Sequence[Image], membranes: Sequence[npt.NDArray[np.bool_]], ridge: float = 1.0
    ) -> MembraneClassifier:
        size = _squared(features(images[0][:8, :8])).shape[1]
        gram, moment, kept = np.zeros((size, size)), np.zeros(size), []
        for image, truth in zip(images, membranes, strict=True):
            x, y = _squared(features(image)[::_THIN]), truth.ravel()[::_THIN].astype(float)
            gram, moment = gram + x.T @ x, moment + x.T @ y
            kept.append((x[::4], y[::4]))
        weights = np.asarray(np.linalg.solve(gram + ridge * np.eye(size), moment), np.float64)
        scores = np.concatenate([x @ weights for x, _ in kept])
        labels = np.concatenate([y for _, y in kept]) > 0.5
        levels = np.quantile(scores, np.linspace(0.3, 0.98, 69))
        return cls(weights, float(max(levels, key=lambda t: f1(labels, scores > t))))

    def score(self, image: Image) -> npt.NDArray[np.float32]:
        """How much each pixel looks like membrane, (H, W): about 0 for none, 1 for membrane.

        The quadratic form of the features: x' U x with the fitted products' weights in the upper triangle U.
        """
        columns = features(image)
        form = np.zeros((columns.shape[1],) * 2, np.float64)
        form[np.triu_indices(len(form))] = self.weights  # the order in which _squared writes the products
        rows = range(0, len(columns), _ROWS)
        parts = (columns[r : r + _ROWS].astype(np.float64) for r in rows)
        score = np.concatenate([np.einsum("ni,ni->n", part @ form, part) for part in parts])
        return np.asarray(score, np.float32).reshape(image.shape)

    def __call__(self, image: Image) -> npt.NDArray[np.bool_]:
        """Which pixels are membrane: bool (H, W)."""
        return np.asarray(self.score(image) > self.threshold)


def _squared(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Features and their pairwise products: a quadratic classifier is enough to rank methods."""
    columns = x.astype(np.float64)
    return np.concatenate([columns[:, i : i + 1] * columns[:, i:] for i in range(x.shape[1])], 1)
