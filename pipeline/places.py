"""Places: what is wrong with a part of a section, beside its nearest neighbours that are fit to compare it with.

Lost tiles are squares of one value. For the rest a scout says where there is doubt, and there the spotter looks. What
it sees is gathered into parts: what is damage at all, of which class most of it is, and whether that is its shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from pipeline import detectors as see
from pipeline import spotter
from pipeline.detectors import CELL, Grey, Looks, Mask
from pipeline.thresholds import Thresholds
from pipeline.view import Finding, View, move

WIDER = 1.2  # times the contrast of neighbours: more is damage, not stain
SQUARE = 0.85  # of the box around it: lost tiles fill theirs, saturated tissue does not
BESIDE, LITTLE = 0.5, 0.25  # doubt of what may be a doubtful place; and of places in sections that are damaged
SURELY = 0.95  # doubt, beyond which one looks however little is to be flagged
GLANCE = 0, 1  # places around a doubtful one that are looked at first, and around those that the network is shown
GAZE = 1, 2  # the same where that makes one look closer
MOVED = {"fold": 1, "crack": 3}  # px around what is seen of a band where tissue was moved, too
RIM = 6  # px around lost tiles and background that look damaged for their edge
MATTER, GREY = ("fold", "crack", "contamination"), ("contrast",)  # one pixel of damage may look like two of a kind
Chances = NDArray[np.float32]


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
    doubt = spotter.doubt(*(shown.cells for shown in trio))
    doubtful = _doubtful(doubt, view.t)
    if not doubtful.any():
        return
    bare = _bare(view, z, near, hole)
    # Where something may be wrong, more may be than what made one look.
    if _amount(_looked(trio, doubtful, GLANCE, bare)) >= view.t.glance:
        beside = before[:1] == [z - 1] and after[:1] == [z + 1]
        looked = _looked(trio, _beside(doubt), GAZE, bare)
        yield from _seen(z, trio[1], looked, view.t, 1.0 if beside else view.t.alone)


@dataclass(frozen=True, slots=True)
class Shown:
    """A section as the networks are shown it."""

    image: Grey
    look: Looks
    cells: Grey  # as spotter.steps has them

    @staticmethod
    def of(image: Grey, look: Looks) -> Shown:
        return Shown(image, look, spotter.steps(see.cells(spotter.whole(image)), look.grey, look.contrast))

    def part(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Whole places of it, in units of tissue."""
        return spotter.units(spotter.whole(self.image)[rows, columns], self.look.grey, self.look.contrast)


def _aligned(view: View, z: int, near: list[int]) -> tuple[Shown, Shown, Shown]:
    """The section between its neighbours, each moved to where the section lies; one alone stands for both."""
    own, others = view.sections[z], []
    here = Shown(own.image, own.look, own.shown)
    # Large dark places widen the section's own contrast: they would look less dark for it.
    most = WIDER * median(view.sections[k].look.contrast for k in near)
    if own.look.contrast > most:
        here = Shown.of(own.image, replace(own.look, contrast=most))
    for other, (by, gain) in ((view.sections[k], move(view, z, k)) for k in near[:2]):
        if by == (0, 0) or gain < view.t.jump_gain / 2:
            others.append(Shown(other.image, other.look, other.shown))
        else:
            others.append(Shown.of(see.moved(other.image, by), other.look))
    return others[0], here, others[-1]


def _bare(view: View, z: int, near: list[int], hole: Finding | None) -> Mask | None:
    """Background and lost tiles, with what looks damaged for their edge; none where there is neither."""
    own, others = view.sections[z].empty, [view.sections[k].empty for k in near[:2]]
    masks = [own & other for other in others if own is not None and other is not None]
    masks += [hole.mask] if hole is not None and hole.mask is not None else []
    return see.grown(np.logical_or.reduce(masks), RIM) if masks else None


def _doubtful(doubt: NDArray[np.float32], t: Thresholds) -> Mask:
    """Places that one should look at."""
    doubtful = np.zeros(doubt.shape, bool)
    weak = doubt > BESIDE
    if not weak.any():
        return doubtful
    for window, part in see.parts(weak, weak, 1):
        here = doubt[window][part]
        amount = float(here.sum())
        if (here.max() > min(t.doubt, SURELY) and amount >= t.doubts) or amount >= t.many:
            doubtful[window] |= part
    return doubtful


def _beside(doubt: NDArray[np.float32]) -> Mask:
    """Places of a section that is damaged: with less doubt, but for what is nowhere as likely damaged as not."""
    found = np.zeros(doubt.shape, bool)
    for window, part in see.parts(doubt > BESIDE, doubt > LITTLE, 1):
        found[window] |= part
    return found


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a section that was looked at."""

    start: tuple[int, int]  # px
    chances: Chances  # of each class but the first, by pixels of cells (n, 4, 4, y/4, x/4); 0 where nobody looked


def _looked(
    trio: tuple[Shown, Shown, Shown], doubtful: Mask, way: tuple[int, int], bare: Mask | None
) -> Iterator[Region]:
    """What is seen at these places and around; each group of them is looked at by itself."""
    around, context = way
    wanted = see.grown(doubtful, around)
    for window, part in see.parts(wanted, wanted, 1):
        start = [max(0, s.start - context) for s in window]
        stop = [min(n, s.stop + context) for s, n in zip(window, wanted.shape, strict=True)]
        inside = np.zeros([b - a for a, b in zip(start, stop, strict=True)], bool)
        inside[tuple(slice(s.start - a, s.stop - a) for s, a in zip(window, start, strict=True))] = part
        rows, columns = (slice(a * spotter.PLACE, b * spotter.PLACE) for a, b in zip(start, stop, strict=True))
        chances = spotter.see(*(shown.part(rows, columns) for shown in trio))[1:]
        chances *= inside.repeat(spotter.PLACE // CELL, 0).repeat(spotter.PLACE // CELL, 1)
        if bare is not None:
            chances[:, _in_cells(bare[rows, columns])] = 0
        yield Region((rows.start, columns.start), chances)


def _in_cells(pixels: Mask) -> Mask:
    """(y, x) as the pixels of cells: (4, 4, y/4, x/4); nothing beyond the section."""
    h, w = (-(-n // spotter.PLACE) * spotter.PLACE for n in pixels.shape)
    whole = np.zeros((h, w), bool)
    whole[: pixels.shape[0], : pixels.shape[1]] = pixels
    return whole.reshape(h // CELL, CELL, w // CELL, CELL).transpose(1, 3, 0, 2)


def _amount(looked: Iterable[Region]) -> float:
    """How much damage there is in the region with most: pixels, each counted by how sure one is of it."""
    return max((max(_sure(some) for some in _groups(region.chances)) for region in looked), default=0.0)


def _groups(chances: NDArray[np.float32]) -> Iterator[Chances]:
    for group in (MATTER, GREY):
        first = spotter.CLASSES.index(group[0]) - 1
        yield chances[first : first + len(group)]


def _sure(some: Chances) -> float:
    return float(2 * np.maximum(some.sum(0) - np.float32(0.5), 0).sum())


def _holes(view: View, z: int, fit: Sequence[bool]) -> Finding | None:
    """Squares of one value that are tissue in a neighbour."""
    t, empty = view.t, view.sections[z].empty
    before, after = view.around(z, fit)
    near = [*before[:1], *after[:1]]
    if empty is None or not near or empty.mean() < t.flat_least:
        return None
    fresh = empty.copy()
    for other in (view.sections[k].empty for k in near):
        fresh &= True if other is None else ~other
    mask = np.zeros_like(empty)
    for window, part in see.parts(fresh, fresh, math.ceil(t.flat_least * empty.size)):
        mask[window] |= part & (part.mean() > SQUARE)
    if not mask.any():
        return None
    share = float(mask.mean())
    grey = float(np.median(view.sections[z].image[mask]))
    return Finding(z, "missing", share / t.flat_least, f"{share:.0%} of the tile is one grey value ({grey:.0f})", mask)


def _seen(z: int, here: Shown, looked: Iterable[Region], t: Thresholds, factor: float) -> Iterator[Finding]:
    """The parts that are damaged, gathered by class: one finding of a class a section."""
    parts: dict[str, list[Part]] = {}
    for region in looked:
        for part in _parts(region, here.image.shape, t):
            parts.setdefault(part.kind, []).append(part)
    for kind, some_of_it in parts.items():
        kept = [part for part in some_of_it if part.sure >= t.alike * t.sure(kind)]
        most = max((part.sure for part in kept), default=0.0)
        score = max(most, sum(part.sure for part in kept) / t.together) / (t.sure(kind) * factor)
        if score >= 1:
            yield _finding(z, kind, score, kept, here)


def _parts(region: Region, shape: tuple[int, ...], t: Thresholds) -> Iterator[Part]:
    """What hangs together in a region, and what it is. shape: of the section, beyond which it was mirrored."""
    (y, x), (h, w) = region.start, shape
    for group, some in zip((MATTER, GREY), _groups(region.chances), strict=True):
        some = spotter.pixels(some)[:, : h - y, : w - x]
        damaged = some.sum(0)
        mask = damaged > 0.5
        for (ys, xs), part in see.parts(mask, mask, t.least_part) if mask.any() else ():
            amounts = some[:, ys, xs][:, part].sum(1)
            kind, banded = group[int(amounts.argmax())], float(amounts[:2].sum() / amounts.sum())
            sure = float((2 * damaged[ys, xs][part] - 1).sum())
            length, width = see.length_and_width(part)
            if kind in ("fold", "crack") and banded * length / max(width, 1.0) < t.elongation:
                kind = "contamination"  # blobs that touch look like a band in places
            window = slice(ys.start + y, ys.stop + y), slice(xs.start + x, xs.stop + x)
            yield Part(kind, window, part, sure, length, width)


@dataclass(frozen=True, slots=True)
class Part:
    """A connected part of a section that looks damaged."""

    kind: str  # class of flags
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
