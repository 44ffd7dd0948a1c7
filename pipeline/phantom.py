"""Phantom: a procedural stack of sections that looks like neuropil under the electron microscope, and damage to it.

Made from a seed and nothing else, so that the demonstration, the tests and the benchmarks need no data. It is good for
finding faults in a pipeline, never for claims about how well tissue is restored.

Lengths are written in reference pixels of 4.6 nm and sections of 45 nm, and scaled to the voxel size asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from pipeline.box import ZYX

Array = NDArray[Any]
Image = NDArray[np.float32]  # (y, x)

REFERENCE_NM = (45.0, 4.6, 4.6)
MARGIN = 90.0  # profiles begin this far outside the picture, so that they can drift in
REACH = 90.0  # beyond its radius, how far a profile can claim ground
KNOTS_Z = 5.0  # sections between the knots of a path


def phantom(
    shape: ZYX = (24, 384, 384), seed: int = 7, voxel_nm: tuple[float, float, float] = REFERENCE_NM
) -> NDArray[np.uint8]:
    """A volume uint8 (z, y, x): the same bytes for the same arguments.

    Membranes dark, cytoplasm light, mitochondria, vesicles, texture and shot noise; profiles drift a few pixels a
    section, so that neighbours are related but not equal. `voxel_nm` is (z, y, x); y and x have 2 voxels at least.
    """
    sections, *lateral = (np.arange(n) * v / r for n, v, r in zip(shape, voxel_nm, REFERENCE_NM, strict=True))
    tissue = _grow(np.random.default_rng([seed, 0]), sections, lateral)
    out = np.empty(shape, np.uint8)
    for i, z in enumerate(sections):  # each section has its own stream: none depends on how many there are
        out[i] = _section(tissue, float(z), np.random.default_rng([seed, 1, i]))
    return out


@dataclass(frozen=True)
class _Field:
    """A smooth random function of (z, y, x) on a fixed lateral grid: a cubic B-spline over normal knots."""

    knots: Array  # (z, y, x)
    along_y: Array  # (Y, knots): weights of the grid's rows
    along_x: Array
    spacing: float  # sections between knots

    @staticmethod
    def draw(rng: Generator, sections: Array, lateral: Sequence[Array], knot: tuple[float, float]) -> _Field:
        """Knots every `knot` (sections, pixels)."""
        z, y, x = (_weights(c / k) for c, k in zip((sections, *lateral), (knot[0], knot[1], knot[1]), strict=True))
        knots = (
            rng.standard_normal((z.shape[1], y.shape[1], x.shape[1])) * 3
        )  # 3: a cubic spline keeps 1/9 of the variance
        return _Field(knots, y, x, knot[0])

    def at(self, z: float) -> Image:
        """Its values in the plane z, about standard normal."""
        plane = np.tensordot(_weights(np.array([z / self.spacing]), len(self.knots))[0], self.knots, 1)
        # einsum, not @: BLAS may sum in another order with other thread counts, and the bytes must not differ.
        rows = np.einsum("yi,ij->yj", self.along_y, plane)
        return np.asarray(np.einsum("yj,xj->yx", rows, self.along_x), np.float32)


def _weights(u: Array, knots: int = 0) -> Array:
    """Weights of a uniform cubic B-spline at u >= 0, (len(u), knots)."""
    cell = np.floor(u).astype(int)
    t = u - cell
    parts = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    out = np.zeros((len(u), max(knots, int(cell.max(initial=0)) + 4)))
    for i, part in enumerate(parts):
        out[np.arange(len(u)), cell + i] = part / 6
    return out


@dataclass(frozen=True)
class _Tissue:
    """Everything that is the same in all sections; n profiles, several of which may be one neurite."""

    lateral: Sequence[Array]  # y and x of the grid, in reference pixels
    paths: Array  # (knots, n, 3): y, x and log radius of each profile along z
    neurite: Array  # (n,): which one a profile belongs to
    grey: Array  # (n,): cytoplasm of neurite i
    vesicles: Array  # (n,): vesicles per pixel of neurite i
    bodies: Sequence[_Body]
    fields: dict[str, _Field]


@dataclass(frozen=True)
class _Body:
    """A mitochondrion: an ellipsoid that rides on a profile."""

    host: int
    offset: Array  # (2,): from the profile's centre
    axes: Array  # (3,): half axes in sections, pixels, pixels
    z: float
    angle: float
    phase: float


_KNOTS = {  # spacing of each field's knots: sections, pixels
    **dict.fromkeys(("sway_y", "sway_x"), (7, 70)),
    **dict.fromkeys(("bend_y", "bend_x"), (4, 28)),
    **dict.fromkeys(("wiggle_y", "wiggle_x"), (2.5, 12)),
    **dict.fromkeys(("light", "stain"), (20, 120)),
    **dict.fromkeys(("mottle", "reticulum"), (1.5, 11)),
    "gate": (3, 45),
}


def _grow(rng: Generator, sections: Array, lateral: Sequence[Array]) -> _Tissue:
    centres, radii = _packed(rng, np.array([c.max() for c in lateral]))
    n = len(radii)
    steps = rng.standard_normal((_weights(sections / KNOTS_Z).shape[1], n, 3)) * (20, 20, 0.25)
    steps[..., :2] *= np.clip(radii / 25, 0.7, 1.4)[:, None]  # the large ones move more, as they lie oblique
    return _Tissue(
        lateral=lateral,
        paths=steps + np.column_stack([centres, np.log(radii)]),
        neurite=_joined(rng, centres, radii),
        grey=rng.normal(160, 16, n),
        vesicles=np.where(rng.random(n) < 0.35, 1 / 300, 1 / 3000),
        bodies=[
            _body(rng, i, radii[i], sections) for i in np.flatnonzero(radii > 15) for _ in range(rng.integers(0, 3))
        ],
        fields={name: _Field.draw(rng, sections, lateral, knot) for name, knot in _KNOTS.items()},
    )


def _joined(rng: Generator, centres: Array, radii: Array) -> Array:
    """The neurite of each profile (n,): some are joined to the nearest other one, for shapes that are not convex."""
    neurite = np.arange(len(radii))
    for i in np.flatnonzero(rng.random(len(radii)) < 0.3):
        gap = np.hypot(*(centres - centres[i]).T) - radii
        gap[i] = np.inf
        neurite[neurite == neurite[i]] = neurite[gap.argmin()]
    return neurite


def _packed(rng: Generator, extent: Array) -> tuple[Array, Array]:
    """Discs that hardly overlap, the large ones first: centres (n, 2) and radii (n,)."""
    low, high = np.full(2, -MARGIN), extent + MARGIN
    area = float(np.prod(high - low))
    wanted = -np.sort(-np.clip(rng.lognormal(2.9, 0.6, int(area / 700)), 9, 85))
    centres, radii = np.empty((0, 2)), np.empty(0)
    for radius in wanted:
        for centre in rng.uniform(low, high, (40, 2)):
            if (np.hypot(*(centres - centre).T) > 0.8 * (radii + radius)).all():
                centres, radii = np.vstack([centres, centre]), np.append(radii, radius)
                break
    return centres, radii


def _body(rng: Generator, host: Any, radius: float, sections: Array) -> _Body:
    thick = rng.uniform(0.35, 0.55) * min(radius, 40)
    return _Body(
        host=int(host),
        offset=rng.normal(0, radius / 3, 2),
        axes=np.array([rng.uniform(4, 12), thick * rng.uniform(1.2, 2.2), thick]),
        z=float(rng.uniform(sections.min() - 3, sections.max() + 3)),
        angle=float(rng.uniform(0, np.pi)),
        phase=float(rng.uniform(0, 7)),
    )


def _section(tissue: _Tissue, z: float, rng: Generator) -> NDArray[np.uint8]:
    """One section, uint8 (y, x)."""
    fields = {name: field.at(z) for name, field in tissue.fields.items()}
    owner, edge = _profiles(tissue, z, fields)
    _, below = _profiles(tissue, z + 0.4, fields)  # a section is thick: oblique membranes are smeared
    wall = (_wall(edge, fields["stain"]) + _wall(below, fields["stain"])) / 2
    grey = tissue.grey[owner] + 7 * fields["light"] + 10 * fields["mottle"]
    grey -= 45 * _tubes(fields) * np.clip((edge - 6) / 4, 0, 1)
    _draw_vesicles(grey, tissue, owner, edge, rng)
    for body in tissue.bodies:
        _draw_body(grey, body, tissue, z, np.where(owner == tissue.neurite[body.host], edge, 0), fields)
    grey += (34 - grey) * wall
    return _expose(grey, tissue.lateral, rng)


def _profiles(tissue: _Tissue, z: float, fields: dict[str, Image]) -> tuple[Array, Image]:
    """Which neurite owns each pixel (y, x), and how far its border is (reference pixels)."""
    sway = [10 * fields[f"sway_{a}"] + 6 * fields[f"bend_{a}"] + 2 * fields[f"wiggle_{a}"] for a in "yx"]
    y = (tissue.lateral[0][:, None] + sway[0]).astype(np.float32)
    x = (tissue.lateral[1][None, :] + sway[1]).astype(np.float32)
    first, second = (np.full(y.shape, 1e3, np.float32) for _ in range(2))
    owner = np.zeros(y.shape, np.int32)
    for who, (cy, cx, log_radius) in zip(tissue.neurite, _places(tissue, z).tolist(), strict=True):
        radius = float(np.exp(log_radius))
        window = _window(tissue.lateral, (cy, cx), radius + REACH)
        away = np.hypot(y[window] - cy, x[window] - cx) - np.float32(radius)
        _claim(first[window], second[window], owner[window], away, who)
    gap = second - first
    slope = np.hypot(*np.gradient(gap, *tissue.lateral))
    return owner, gap / np.maximum(slope, 0.7)


def _claim(first: Image, second: Image, owner: Array, away: Image, who: int) -> None:
    """Enter one profile into the distances to the nearest and to the second nearest neurite, in place."""
    closer = away < first
    # Of one neurite's profiles the nearest counts: it is never its own second.
    second[:] = np.where(owner == who, second, np.where(closer, first, np.minimum(second, away)))
    owner[closer] = who
    np.minimum(first, away, out=first)


def _places(tissue: _Tissue, z: float) -> Array:
    """(n, 3): y, x, log radius of the profiles in the plane z."""
    return np.tensordot(_weights(np.array([z / KNOTS_Z]), len(tissue.paths))[0], tissue.paths, 1)


def _window(lateral: Sequence[Array], centre: Sequence[float] | Array, reach: float) -> tuple[slice, slice]:
    """The part of the grid within `reach` of a place."""
    y, x = (slice(*np.searchsorted(c, (p - reach, p + reach))) for c, p in zip(lateral, centre, strict=True))
    return y, x


def _step(value: Array, soft: float) -> Array:
    """From 0 to 1 as value goes from negative to positive, over about `soft`."""
    return np.asarray(0.5 + 0.5 * np.tanh(value / soft))


def _wall(edge: Image, stain: Image) -> Array:
    """How much of a pixel is membrane: two dark leaves with a cleft between them that is a little lighter."""
    half = np.clip(3.8 + 0.6 * stain, 2.6, 5.5)
    cleft: Array = 1 - 0.2 * np.exp(-((edge / 1.2) ** 2))
    return (1 - _step(edge - half, 1.5)) * cleft


def _tubes(fields: dict[str, Image]) -> Array:
    """Endoplasmic reticulum: thin lines where a random field is zero, in patches."""
    line = fields["reticulum"]
    thin: Array = np.exp(-((line / (np.hypot(*np.gradient(line)) + 1e-6) / 1.6) ** 2))
    return thin * _step(fields["gate"] - 0.4, 0.3)


def _draw_body(grey: Array, body: _Body, tissue: _Tissue, z: float, room: Array, fields: dict[str, Image]) -> None:
    """A mitochondrion: dark, darker rim, cristae; only where its neurite has room for it."""
    size = 1 - ((z - body.z) / body.axes[0]) ** 2
    if size <= 0:
        return
    centre = _places(tissue, z)[body.host, :2] + body.offset
    window = _window(tissue.lateral, centre, float(body.axes.max()) + 8)
    y = tissue.lateral[0][window[0], None] - centre[0] + 4 * fields["wiggle_y"][window]
    x = tissue.lateral[1][None, window[1]] - centre[1] + 4 * fields["wiggle_x"][window]
    u = y * np.cos(body.angle) + x * np.sin(body.angle)
    v = x * np.cos(body.angle) - y * np.sin(body.angle)
    depth = (np.sqrt(size) - np.hypot(u / body.axes[1], v / body.axes[2])) * body.axes[2]  # pixels inside its rim
    cristae = np.sin(u * 0.75 + 2.5 * fields["reticulum"][window] + body.phase)
    look = 100 + 20 * cristae - 50 * np.exp(-(((depth - 2) / 2) ** 2))
    here = _step(depth, 1.5) * np.clip((room[window] - 8) / 4, 0, 1)
    grey[window] += (look - grey[window]) * here


def _draw_vesicles(grey: Array, tissue: _Tissue, owner: Array, edge: Image, rng: Generator) -> None:
    """Rings of about 40 nm, a few with a dense core. Each is cut by one section only, so they have no past."""
    lateral, densest = tissue.lateral, tissue.vesicles.max()
    pixel = float(np.prod([c[1] - c[0] if len(c) > 1 else 1 for c in lateral]))
    for _ in range(rng.poisson(owner.size * pixel * densest)):
        i, j, luck, radius, dense = rng.random(5) * (*owner.shape, densest, 1, 1)
        at = int(i), int(j)
        if luck > tissue.vesicles[owner[at]] or edge[at] < 11:
            continue
        window = _window(lateral, (lateral[0][at[0]], lateral[1][at[1]]), 10)
        away = np.hypot(
            lateral[0][window[0], None] - lateral[0][at[0]], lateral[1][None, window[1]] - lateral[1][at[1]]
        )
        ring = -55 * np.exp(-(((away - 3.4 - radius) / 1.3) ** 2)) + 10 * np.exp(-((away / 2) ** 2))
        grey[window] += -100 * (1 - _step(away - 5, 2)) if dense < 0.05 else ring


def _expose(grey: Array, lateral: Sequence[Array], rng: Generator) -> NDArray[np.uint8]:
    """Stain grain, shot noise, and the small changes of brightness and contrast from section to section."""
    pixel = [float(c[1] - c[0]) if len(c) > 1 else 1.0 for c in lateral]
    for sigma, strength in ((0.8, 19), (2.4, 13)):
        grain = gaussian_filter(rng.standard_normal(grey.shape, np.float32), [sigma / p for p in pixel])
        grey = grey + strength * grain / grain.std() * np.clip(grey / 150, 0.5, 1.2)
    grey = gaussian_filter(grey, [0.5 / p for p in pixel])
    grey = grey * rng.normal(1, 0.02) + rng.normal(0, 3)
    shot = rng.standard_normal(grey.shape, np.float32) * np.sqrt(np.clip(grey, 5, None)) * 0.6
    return np.clip(np.rint(grey + shot), 0, 255).astype(np.uint8)


def damage(
    volume: NDArray[np.uint8], *, seed: int
) -> tuple[NDArray[np.uint8], list[dict[str, str | int]], dict[int, NDArray[np.bool_]]]:
    """A damaged copy of a volume (z, y, x), the rows of its flags file, and by z the mask (y, x) of partial damage.

    One section is missing, a run of two is missing, one is cracked and one folded, each with clean neighbours; what
    finds no place in fewer than 10 sections is left out, the last first. Missing sections are 0. Only what the rows and
    masks say is changed. The rows leave the cell `mask` to whoever stores the masks.
    """
    rng = np.random.default_rng([seed, 2])
    out = volume.copy()
    rows: list[dict[str, str | int]] = []
    masks: dict[int, NDArray[np.bool_]] = {}
    for z, (kind, depth, hurt) in _places_of_damage(rng, len(volume)):
        rows.append({"z_start": z, "z_stop": z + depth, "class": kind, "source": "phantom"})
        if hurt:
            out[z], masks[z] = hurt(volume[z], rng)
        else:
            out[z : z + depth] = 0
    return out, rows, masks


def _places_of_damage(rng: Generator, sections: int) -> list[tuple[int, tuple[str, int, Callable[..., Any] | None]]]:
    """First section and kind of each damage, at random, never at an end and never side by side."""
    kinds = [("missing", 1, None), ("missing", 2, None), ("crack", 1, _crack), ("fold", 1, _fold)]
    while 1 + sum(depth + 1 for _, depth, _ in kinds) > sections:
        kinds.pop()
    kinds = [kinds[i] for i in rng.permutation(len(kinds))]
    spare = sections - 1 - sum(depth + 1 for _, depth, _ in kinds)
    gaps = 1 + np.diff(np.sort(rng.integers(0, spare + 1, len(kinds))), prepend=0)
    starts = np.cumsum(gaps) + np.cumsum([0, *(depth for _, depth, _ in kinds[:-1])]) if kinds else []
    return [(int(z), kind) for z, kind in zip(starts, kinds, strict=True)]


def _across(shape: tuple[int, ...], rng: Generator) -> tuple[Array, Array]:
    """Signed pixels (y, x) from a gently curved line through the section, and the line's normal."""
    y, x = (c - n * rng.uniform(0.35, 0.65) for c, n in zip(np.indices(shape), shape, strict=True))
    angle, bow = rng.uniform(0, np.pi), rng.uniform(0.02, 0.05) * min(shape)
    along = (x * np.cos(angle) - y * np.sin(angle)) / min(shape)
    normal = np.array([np.cos(angle), np.sin(angle)])
    return y * normal[0] + x * normal[1] + bow * np.sin(5 * along + rng.uniform(0, 6)), normal


def _crack(section: Array, rng: Generator) -> tuple[Array, Array]:
    """Torn open: a bright band without tissue, its rim dark."""
    away, _ = _across(section.shape, rng)
    depth = min(section.shape) * 0.016 + 2 + gaussian_filter(rng.standard_normal(section.shape), 6) * 15 - abs(away)
    empty = 232 - 140 * np.exp(-((depth / 1.5) ** 2)) + rng.normal(0, 3, section.shape)
    return np.where(depth > 0, np.clip(empty, 0, 255), section).astype(np.uint8), depth > 0


def _fold(section: Array, rng: Generator) -> tuple[Array, Array]:
    """Tissue swallowed by a dark line, what is left of it drawn towards the line."""
    away, normal = _across(section.shape, rng)
    reach = max(6.0, min(section.shape) * 0.08)
    pull = np.sign(away) * np.clip(1 - abs(away) / reach, 0, 1) ** 2 * reach / 3
    drawn = map_coordinates(
        section.astype(float), np.indices(section.shape) + pull * normal[:, None, None], order=1, mode="nearest"
    )
    drawn = drawn + (25 - drawn) * (1 - _step(abs(away) - reach / 8, 1.5))
    return np.where(abs(away) < reach, np.clip(np.rint(drawn), 0, 255), section).astype(np.uint8), abs(away) < reach
