"""Wounds: damage to learn to see, as varied as we can make it. Detection is measured with the simulators of `damage`.

Each takes a section (y, x) float32 in grey levels, 0 to 255, and a generator, and gives the wounded section and the
mask, bool (y, x), of what it touched. Lengths are pixels of a scan, about 8 nm.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Wounded = tuple[Image, Bools]
Wound = Callable[[Image, np.random.Generator], Wounded]

STEPS = 60  # of a curve
BAND_SEEN, DIRT_SEEN = 0.3, 0.15  # opacity from which on a pixel counts as wounded
MOVED = 0.5  # px: tissue that moved so far does


def spread(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between the two; its logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def soft(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> Image:
    """A smooth random field of standard deviation about 1, with so many cells a side."""
    field = rng.standard_normal((cells + 2, cells + 2)).astype(np.float32)
    return np.asarray(cv2.resize(field, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32)


def blur(image: Image, sigma: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def curve(rng: np.random.Generator, shape: tuple[int, ...]) -> Image:
    """The distance of each pixel from a line that winds through the section, or ends in it."""
    long = rng.uniform(0.5, 2.2) * max(shape) if rng.random() < 0.75 else rng.uniform(40, 120)
    turns = np.cumsum(rng.normal(0, rng.uniform(0, 0.08), STEPS))
    turns += rng.uniform(0, 0.5) * np.sin(np.linspace(0, rng.uniform(2, 12), STEPS) + rng.uniform(0, 6))
    turns += rng.uniform(0, 2 * np.pi)
    path = np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1) * long / STEPS, axis=0)
    path += rng.uniform(0.15, 0.85, 2) * np.array(shape[::-1]) - path[int(rng.integers(STEPS))]
    line = np.full(shape, 255, np.uint8)
    points = np.round(path * 16).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(line, [points], False, 0, 1, cv2.LINE_8, 4)
    if line.all():  # it left the section: a line there must be
        line[shape[0] // 2] = 0
    return np.asarray(cv2.distanceTransform(line, cv2.DIST_L2, 5), np.float32)


def _displaced(image: Image, distance: Image, shift: Image) -> Image:
    """The section seen `shift` pixels further from the line (negative: nearer to it)."""
    across = [cv2.Sobel(distance, cv2.CV_32F, *axis, ksize=3) / 8 for axis in ((1, 0), (0, 1))]
    norm = np.hypot(*across) + np.float32(1e-6)
    y, x = np.indices(image.shape, np.float32)
    at = [(here + shift * way / norm).astype(np.float32) for here, way in zip((x, y), across, strict=True)]
    return np.asarray(cv2.remap(image, at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), np.float32)


def _band(image: Image, rng: np.random.Generator, widest: float, closes: bool) -> tuple[Image, Image, Bools]:
    """The section with its tissue moved to close (or open) a band, the band's opacity, and the mask of both."""
    distance = curve(rng, image.shape)
    half = np.float32(spread(rng, 1.3, widest)) * np.clip(
        1 + rng.uniform(0, 0.5) * soft(rng, image.shape, 5), 0.5, 2
    ).astype(np.float32)
    times = rng.uniform(1.2, 6) if rng.random() < 0.8 else 1.0  # half widths as far as which tissue was moved
    core = np.clip((half - distance) / rng.uniform(0.3, 1.5) + 0.5, 0, 1).astype(np.float32)
    moved = np.zeros_like(core)
    if times > 1:
        fades = np.clip((times * half - distance) / ((times - 1) * half), 0, 1)
        moved = (1 if closes else -1) * np.float32(rng.uniform(0.5, 1.2)) * half * fades
        image = _displaced(image, distance, moved)
    return image, core, (core > BAND_SEEN) | (np.abs(moved) > MOVED)


def _over(image: Image, new: Image, core: Image, rng: np.random.Generator) -> tuple[Image, np.float32]:
    """The new grey over the old one; sometimes one sees through it. And the opacity at the core's middle."""
    opacity = np.float32(rng.uniform(0.5, 1) if rng.random() < 0.3 else 1.0)
    return np.asarray(image + opacity * core * (new - image), np.float32), opacity


def fold(image: Image, rng: np.random.Generator) -> Wounded:
    """A dark band where the section lies on itself; the tissue either side has moved in to close the gap."""
    moved, core, mask = _band(image, rng, 9.0, closes=True)
    kind = rng.random()
    if kind < 0.5:
        dark = moved * np.float32(rng.uniform(0.05, 0.6))
    elif kind < 0.75:  # twice the tissue absorbs twice
        upon = np.roll(moved, tuple(int(v) for v in rng.integers(-20, 21, 2)), (0, 1))
        dark = moved * upon / max(float(np.median(image)), 1.0) * np.float32(rng.uniform(0.4, 0.8))
    else:
        dark = 0.15 * moved + np.float32(rng.uniform(0, np.percentile(image, 2) + 10))
    dark = dark + rng.normal(0, rng.uniform(0, 7), image.shape).astype(np.float32)
    return _over(moved, dark, core, rng)[0], mask


def crack(image: Image, rng: np.random.Generator) -> Wounded:
    """A band without tissue, bright or black; the tissue either side has been pushed apart."""
    moved, core, mask = _band(image, rng, 6.0, closes=False)
    bright = min(255.0, max(float(np.percentile(image, 97)), float(np.median(image)) + 20))
    grey = rng.uniform(bright, 255) if rng.random() < 0.85 else rng.uniform(0, 3)
    uneven = (grey > 3) * rng.uniform(0, 3) * soft(rng, image.shape, 12)
    empty = grey + rng.normal(0, rng.uniform(0, 6), image.shape) + uneven
    return _over(moved, empty.astype(np.float32), core, rng)[0], mask


def _field(rng: np.random.Generator, shape: tuple[int, ...]) -> Image:
    """Above 0 in blobs of one size, all over the section."""
    field = blur(rng.standard_normal(shape).astype(np.float32), spread(rng, 4, 14))
    level = np.quantile(field[::2, ::2], 1 - spread(rng, 0.01, 0.2))
    return np.asarray((field - level) / max(float(field.max() - level), 1e-6), np.float32)


def _drops(rng: np.random.Generator, shape: tuple[int, ...]) -> Image:
    """Above 0 in a few ellipses with rough edges."""
    y, x = np.indices(shape, np.float32)
    rough = soft(rng, shape, int(rng.integers(6, 40))) * np.float32(rng.uniform(0, 0.35))
    field = np.full(shape, -1, np.float32)
    for _ in range(int(rng.integers(1, 7))):
        radius, aspect, turn = spread(rng, 6, 38), rng.uniform(0.6, 1.6), rng.uniform(0, np.pi)
        dy, dx = (at - np.float32(rng.uniform(0, n)) for at, n in zip((y, x), shape, strict=True))
        u, v = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        field = np.maximum(field, 1 - np.hypot(u / aspect, v * aspect) / radius + rough).astype(np.float32)
    return field


def _grains(rng: np.random.Generator, shape: tuple[int, ...]) -> Image:
    """Above 0 in grains that lie close together: precipitate."""
    drawn, wide = np.zeros(shape, np.float32), rng.uniform(15, 120)
    centre = [rng.uniform(0, n) for n in shape[::-1]]
    for _ in range(int(rng.integers(6, 60))):
        x, y = (round(float(rng.normal(at, wide))) for at in centre)
        cv2.circle(drawn, (x, y), int(rng.integers(4, 10)), 1.0, -1)
    return np.where(drawn > 0, np.float32(0.5), np.float32(-1))


def _stars(rng: np.random.Generator, shape: tuple[int, ...]) -> Image:
    """Above 0 in needles that grow from a few points: crystals of stain."""
    drawn = np.zeros(shape, np.float32)
    for _ in range(int(rng.integers(1, 5))):
        x, y = (rng.uniform(0, n) for n in shape[::-1])
        for _ in range(int(rng.integers(5, 16))):
            turn, long = rng.uniform(0, 2 * np.pi), rng.uniform(8, 34)
            at = (round(x + rng.normal(0, 5)), round(y + rng.normal(0, 5)))
            to = (round(at[0] + long * np.cos(turn)), round(at[1] + long * np.sin(turn)))
            cv2.line(drawn, at, to, 1.0, int(rng.integers(2, 6)))
    return np.where(drawn > 0, np.float32(0.5), np.float32(-1))


def hole(image: Image, rng: np.random.Generator) -> Wounded:
    """One to three round bright places: resin that the section lost, or a bubble. Sometimes with a dark rim."""
    y, x = np.indices(image.shape, np.float32)
    rough = soft(rng, image.shape, 30) * np.float32(rng.uniform(0, 0.25))
    field = np.full(image.shape, -np.inf, np.float32)
    for _ in range(int(rng.integers(1, 4))):
        at, radius = [rng.uniform(0, n) for n in image.shape], spread(rng, 7, 26)
        field = np.maximum(field, (1 - np.hypot(y - at[0], x - at[1]) / radius + rough) * radius).astype(np.float32)
    bright = min(255.0, float(rng.uniform(np.percentile(image, 97), 290)))
    filled = bright + rng.normal(0, rng.uniform(0, 5), image.shape).astype(np.float32)
    core = np.clip(field / rng.uniform(0.5, 3) + 0.5, 0, 1).astype(np.float32)
    out, _ = _over(image, filled, core, rng)
    rim = 0.0
    if rng.random() < 0.4:
        rim = rng.uniform(1, 4)
        out = np.where((field < 0) & (field > -rim), out * np.float32(rng.uniform(0.3, 0.8)), out)
    return np.asarray(out, np.float32), field > -rim


def contamination(image: Image, rng: np.random.Generator) -> Wounded:
    """Blobs, drops, grains or crystals that lie on the section, dark, seldom bright; or holes in it."""
    kind = int(rng.choice(5, p=[0.3, 0.25, 0.1, 0.15, 0.2]))
    if kind == 4:
        return hole(image, rng)
    field = (_field, _drops, _grains, _stars)[kind](rng, image.shape)
    core = np.clip(field * spread(rng, 2, 30) + rng.uniform(0, 0.6), 0, 1) * (field > 0)
    core = blur(core.astype(np.float32), rng.uniform(0.4, 1.5))
    if rng.random() < 0.85:
        dirt = image * np.float32(rng.uniform(0, 0.5)) + np.float32(rng.uniform(0, 20))
        if rng.random() < 0.5:  # darkest in the middle
            dirt = dirt * (1 - 0.8 * np.clip(field, 0, 1))
    else:
        dirt = np.full_like(image, min(255.0, rng.uniform(float(np.percentile(image, 96)), 290)))
    dirt = dirt + rng.normal(0, rng.uniform(0, 6), image.shape).astype(np.float32)
    out, opacity = _over(image, dirt.astype(np.float32), core, rng)
    return out, (field > 0) & (opacity * core > DIRT_SEEN)


def region(image: Image, rng: np.random.Generator) -> Wounded:
    """A part of the section with another brightness and contrast: a patch, a side, or a rectangle."""
    shape, kind = image.shape, rng.random()
    if kind < 0.5:
        small = blur(rng.standard_normal((shape[0] // 4, shape[1] // 4)).astype(np.float32), rng.uniform(4, 10))
        field = np.asarray(cv2.resize(small / small.std(), shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)
        field = field - np.quantile(field, 1 - rng.uniform(0.08, 0.55))
    elif kind < 0.75:
        y, x = np.indices(shape, np.float32)
        (y0, x0), turn = (n * rng.uniform(0.2, 0.8) for n in shape), rng.uniform(0, 2 * np.pi)
        field = ((x - x0) * np.cos(turn) + (y - y0) * np.sin(turn)) / 30
    else:
        field = np.full(shape, -1, np.float32)
        sizes = [int(n * rng.uniform(0.2, 0.8)) for n in shape]
        y0, x0 = (int(rng.integers(0, n - s)) for n, s in zip(shape, sizes, strict=True))
        field[y0 : y0 + sizes[0], x0 : x0 + sizes[1]] = 1
    core = np.clip(field * spread(rng, 0.7, 40) + 0.5, 0, 1).astype(np.float32)
    low, high = np.percentile(blur(image, 2.0)[::4, ::4], (16, 84))
    gain = rng.uniform(0.4, 0.85) if rng.random() < 0.6 else rng.uniform(1, 1.5)
    offset = rng.uniform(0.5, 2.5) * (high - low) / 2 * rng.choice([-1, 1])
    if rng.random() < 0.15:
        gain, offset = rng.uniform(0.3, 0.6), 0.0
    mean = image.mean()
    return np.asarray(image + core * ((image - mean) * (gain - 1) + offset), np.float32), core > 0.5


# By the name of the class that a finding has; and how often each is drawn.
WOUNDS: dict[str, Wound] = {"fold": fold, "crack": crack, "contamination": contamination, "contrast": region}
SHARES = (0.26, 0.26, 0.32, 0.16)
