"""Places: what is wrong with a part of a section, beside its nearest neighbours that are fit to compare it with.

Lost tiles are squares of one value. For the rest a scout says where there is doubt, and there the spotter looks. What
it sees is gathered into parts: what is damage at all, of which class most of it is, and whether that is its shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline import detectors as see
from pipeline import spotter
from pipeline.detectors import Looks, Mask
from pipeline.thresholds import Thresholds
from pipeline.view import Finding, View, move, unit

WIDER = 1.2  # times the contrast of neighbours: more is damage, not stain
SQUARE = 0.85  # of the box around it: lost tiles fill theirs, saturated tissue does not
BESIDE, LITTLE = 0.5, 0.25  # doubt of what belongs to a doubtful place; and of places in sections that are damaged
AROUND = 2  # places around a doubtful one that are looked at, too
CONTEXT = 2  # and around those, places that the network is shown
MOVED = {"fold": 1, "crack": 3}  # px around what is seen of a band where tissue was moved, too
RIM = 6  # px around lost tiles and background that look damaged for their edge
MATTER, GREY = ("fold", "crack", "contamination"), ("contrast",)  # one pixel of damage may look like two of a kind


def places(view: View, z: int, fit: Sequence[bool]) -> Iterator[Finding]:
    """Empty squares, bands, blobs and regions; fit: which sections may be compared with."""
    hole = _holes(view, z, fit)
    if hole is not None:
        yield hole
    before, after = view.around(z, fit)
    near = [*before[:1], *after[:1]]
    if len(near) < 2:
        near = [*before[:2], *after[:2]]
    if not near:
        return
    trio = _aligned(view, z, near)
    bare = view.sections[z].empty & np.logical_or.reduce([view.sections[k].empty for k in near[:2]])
    if hole is not None and hole.mask is not None:
        bare |= hole.mask
    beside = before[:1] == [z - 1] and after[:1] == [z + 1]
    doubt = _doubt(trio)
    found: list[Finding] = []
    # Where something is wrong, more may be than what made one look.
    for doubtful in (_doubtful(doubt, view.t), doubt > LITTLE):
        if doubtful.any():
            chances = _looked(trio, see.grown(doubtful, AROUND))
            chances[:, see.grown(bare, RIM)] = 0
            found = list(_seen(z, trio[1], chances, view.t, 1.0 if beside else view.t.alone))
        if not found:
            return
    yield from found


@dataclass(frozen=True, slots=True)
class Shown:
    """A section as the networks are shown it."""

    image: NDArray[np.uint8]
    look: Looks
    cells: NDArray[np.float32]


def _aligned(view: View, z: int, near: list[int]) -> tuple[Shown, Shown, Shown]:
    """The section between its neighbours, each moved to where the section lies; one alone stands for both."""
    # Large dark places widen the section's own contrast: they would look less dark for it.
    most = WIDER * float(np.median([view.sections[k].look.contrast for k in near]))
    own = view.sections[z]
    here = Shown(own.image, replace(own.look, contrast=min(own.look.contrast, most)), own.cells)
    others = []
    for k in near[:2]:
        by, gain = move(view, z, k)
        if by == (0, 0) or gain < view.t.jump_gain / 2:
            others.append(Shown(view.sections[k].image, view.sections[k].look, view.sections[k].cells))
        else:
            image = see.moved(view.sections[k].image, by)
            others.append(Shown(image, view.sections[k].look, spotter.cells(image)))
    return others[0], here, others[-1]


def _doubt(trio: tuple[Shown, Shown, Shown]) -> NDArray[np.float32]:
    """How likely something is wrong in each place of spotter.PLACE pixels: (y/16, x/16)."""
    units = [(shown.cells - np.float32(shown.look.grey)) / np.float32(shown.look.contrast) for shown in trio]
    return spotter.doubt(*units)


def _doubtful(doubt: NDArray[np.float32], t: Thresholds) -> Mask:
    """Places that one should look at."""
    doubtful = np.zeros(doubt.shape, bool)
    for window, part in see.parts(doubt > t.doubt, doubt > min(t.doubt, BESIDE), 1):
        if doubt[window][part].sum() >= t.doubts:
            doubtful[window] |= part
    return doubtful


def _looked(trio: tuple[Shown, Shown, Shown], doubtful: Mask) -> NDArray[np.float32]:
    """The chances of each class but the first; 0 where nobody looked. Each group of places is looked at by itself."""
    h, w = trio[1].image.shape
    chances = np.zeros((len(spotter.CLASSES) - 1, h, w), np.float32)
    images = [spotter.whole(shown.image) for shown in trio]
    for (ys, xs), part in see.parts(doubtful, doubtful, 1):
        rows, columns = (
            slice(max(0, s.start - CONTEXT) * spotter.PLACE, min(n, s.stop + CONTEXT) * spotter.PLACE)
            for s, n in zip((ys, xs), doubtful.shape, strict=True)
        )
        found = spotter.see(*(unit(image[rows, columns], s.look) for image, s in zip(images, trio, strict=True)))[1:]
        inside = np.zeros(doubtful.shape, bool)
        inside[ys, xs] = part
        inside = np.kron(inside, np.ones((spotter.PLACE, spotter.PLACE), bool))[rows, columns]
        ny, nx = min(h, rows.stop) - rows.start, min(w, columns.stop) - columns.start
        here = chances[:, rows.start : rows.start + ny, columns.start : columns.start + nx]
        np.copyto(here, found[:, :ny, :nx], where=inside[:ny, :nx])
    return chances


def _holes(view: View, z: int, fit: Sequence[bool]) -> Finding | None:
    """Squares of one value that are tissue in a neighbour."""
    t, empty = view.t, view.sections[z].empty
    before, after = view.around(z, fit)
    near = [view.sections[k].empty for k in (*before[:1], *after[:1])]
    if not near or empty.mean() < t.flat_least:
        return None
    fresh = empty & ~np.logical_or.reduce(near)
    mask = np.zeros_like(empty)
    for window, part in see.parts(fresh, fresh, math.ceil(t.flat_least * empty.size)):
        mask[window] |= part & (part.mean() > SQUARE)
    if not mask.any():
        return None
    share = float(mask.mean())
    grey = float(np.median(view.sections[z].image[mask]))
    return Finding(z, "missing", share / t.flat_least, f"{share:.0%} of the tile is one grey value ({grey:.0f})", mask)


def _seen(z: int, here: Shown, chances: NDArray[np.float32], t: Thresholds, factor: float) -> Iterator[Finding]:
    """The parts that are damaged, gathered by class: one finding of a class a section."""
    parts: dict[str, list[Part]] = {}
    for group in (MATTER, GREY):
        some = chances[[spotter.CLASSES.index(name) - 1 for name in group]]
        damaged = some.sum(0)
        mask = damaged > 0.5
        for window, part in see.parts(mask, mask, t.least_part) if mask.any() else ():
            amounts = some[(slice(None), *window)][:, part].sum(1)
            kind, banded = group[int(amounts.argmax())], float(amounts[:2].sum() / amounts.sum())
            sure = float((2 * damaged[window][part] - 1).sum())
            length, width = see.length_and_width(part)
            if kind in ("fold", "crack") and banded * length / max(width, 1.0) < t.elongation:
                kind = "contamination"  # blobs that touch look like a band in places
            parts.setdefault(kind, []).append(Part(window, part, sure, length, width))
    for kind, some_of_it in parts.items():
        score = max(part.sure for part in some_of_it) / (t.sure(kind) * factor)
        if score >= 1:
            kept = [part for part in some_of_it if part.sure >= t.alike * t.sure(kind)]
            yield _finding(z, kind, score, kept, here)


@dataclass(frozen=True, slots=True)
class Part:
    """A connected part of a section that looks damaged."""

    window: tuple[slice, slice]
    mask: Mask  # in the window
    sure: float  # pixels, each counted by how sure it is
    length: float  # px, as of a band
    width: float


def _finding(z: int, kind: str, score: float, parts: list[Part], here: Shown) -> Finding:
    """Their masks together; the reason is that of the largest."""
    mask = np.zeros(here.image.shape, bool)
    for part in parts:
        mask[part.window] |= part.mask
    most = max(parts, key=lambda part: part.sure)
    more = f", and {len(parts) - 1} more" if len(parts) > 1 else ""
    tone = "dark" if float(np.median(here.image[most.window][most.mask])) < here.look.grey else "bright"
    if kind == "contrast":
        why = f"{mask.mean():.0%} of the tile is brighter or darker than in both neighbours"
    elif kind == "contamination":
        across = 2 * math.sqrt(most.mask.sum() / math.pi)
        why = f"a {tone} blob {{px{across:.0f}}} wide that no neighbour has{more}"
    else:
        why = f"a {tone} band {{px{most.length:.0f}}} long and {{px{most.width:.0f}}} wide that no neighbour has{more}"
    return Finding(z, kind, score, why, see.grown(mask, MOVED.get(kind, 0)))
