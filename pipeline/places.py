"""Places: what is wrong with a part of a section, beside its nearest neighbours that are fit to compare it with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipeline import detectors as see
from pipeline.detectors import Image, Mask
from pipeline.thresholds import Thresholds
from pipeline.view import Finding, View, move, standard

WIDER = 1.2  # times the contrast of neighbours: more is damage, not stain
SQUARE = 0.85  # of the box around it: lost tiles fill theirs, saturated tissue does not


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
    here, others = _alignable(view, z, near)
    kept = np.ones(here.shape, bool) if hole is None or hole.mask is None else ~see.grown(hole.mask, 4)
    taken = ~kept
    beside = before[:1] == [z - 1] and after[:1] == [z + 1]
    about = (view, z, here, others, kept, 1.0 if beside else view.t.alone)
    for finding in (*_dark_or_bright(*about), *_regions(*about)):
        if finding.mask is not None and not (finding.mask & taken).sum() > 0.5 * finding.mask.sum():
            taken |= finding.mask
            yield finding


def _alignable(view: View, z: int, near: list[int]) -> tuple[Image, list[Image]]:
    """The section and its neighbours in units of tissue, blurred, each neighbour moved to where the section lies."""
    # Large dark places widen the section's own contrast: they would look less dark for it.
    most = WIDER * float(np.median([view.looks[k].contrast for k in near]))
    look = replace(view.looks[z], contrast=min(view.looks[z].contrast, most))
    here = standard(view.stack[z], look, view.t)
    moves = [move(view, z, k) for k in near]
    far = [by if gain >= view.t.jump_gain / 2 else (0, 0) for by, gain in moves]
    others = [standard(view.stack[k], view.looks[k], view.t) for k in near]
    return here, [see.moved(other, by) for other, by in zip(others, far, strict=True)]


def _holes(view: View, z: int, fit: Sequence[bool]) -> Finding | None:
    """Squares of one value that are tissue in a neighbour."""
    t, empty = view.t, view.empty[z]
    before, after = view.around(z, fit)
    near = [view.empty[k] for k in (*before[:1], *after[:1])]
    if not near or empty.mean() < t.flat_least:
        return None
    fresh = empty & ~np.logical_or.reduce(near)
    mask = np.zeros_like(empty)
    for window, part in see.parts(fresh, fresh, math.ceil(t.flat_least * empty.size)):
        mask[window] |= part & (part.mean() > SQUARE)
    if not mask.any():
        return None
    share = float(mask.mean())
    grey = float(np.median(view.stack[z][mask]))
    return Finding(z, "missing", share / t.flat_least, f"{share:.0%} of the tile is one grey value ({grey:.0f})", mask)


def _dark_or_bright(
    view: View, z: int, here: Image, others: list[Image], kept: Mask, factor: float
) -> Iterator[Finding]:
    t, found = view.t, list[Finding | None]()
    for sign, limit in ((1, t.dark * factor), (-1, t.bright * factor)):
        dark = sign * here  # what is bright is dark in the negative
        local = see.darkest([sign * other for other in others], t.reach_px) - dark
        all_tissue, rim = view.tails(z, sign)
        beyond = np.minimum(local, all_tissue - dark)
        weak = see.closed(kept & (local > t.spread) & (dark < rim), t.close_px)
        near = see.darkest([sign * other for other in others], t.blob_reach_px)
        rim_of_blobs = kept & (near > dark) & (dark < rim + t.fringe)
        for window, part in see.parts(kept & (local > limit), weak, t.area_px):
            extreme = (beyond[window] > limit) & part
            score = max(1.0, float(np.percentile(beyond[window][part], 95)) / limit) if extreme.any() else 0.0
            finding = _part(z, window, part, score, sign, t, here.shape)
            if finding is not None and finding.kind == "contamination" and finding.mask is not None:
                fringe = see.grown(finding.mask, t.fringe_px) & rim_of_blobs
                finding = replace(finding, mask=see.closed(finding.mask | fringe, t.close_px) & kept)
            found.append(finding)
    yield from _merged([f for f in found if f is not None])


def _part(
    z: int, window: tuple[slice, slice], part: Mask, score: float, sign: int, t: Thresholds, shape: tuple[int, ...]
) -> Finding | None:
    """score: 0 where it is no darker than tissue around: then only what is long is damage, for tissue is not."""
    length, width = see.length_and_width(part)
    if not score and (length < t.long_px or length / max(width, 1.0) < t.thin):
        return None
    score = score or length / t.long_px
    mask = np.zeros(shape, bool)
    mask[window] = part
    tone = "dark" if sign > 0 else "bright"
    if length >= t.band_px and length / max(width, 1.0) >= t.elongation:
        kind, moved = ("fold", t.displaced_fold) if sign > 0 else ("crack", t.displaced_crack)
        why = f"a {tone} band {{px{length:.0f}}} long and {{px{width:.0f}}} wide that no neighbour has"
        return Finding(z, kind, score, why, see.grown(mask, round(moved * width / 2)))
    if part.sum() < t.blob_px:
        return None
    why = f"a {tone} blob {{px{2 * math.sqrt(part.sum() / math.pi):.0f}}} wide that no neighbour has"
    return Finding(z, "contamination", score, why, see.grown(mask, 2))


def _merged(found: list[Finding]) -> Iterator[Finding]:
    """One finding of a class a section: its masks together, its reason that of the largest."""
    for kind in dict.fromkeys(f.kind for f in found):
        same = [f for f in found if f.kind == kind and f.mask is not None]
        largest = max(same, key=_area)
        more = f", and {len(same) - 1} more" if len(same) > 1 else ""
        mask = np.logical_or.reduce([f.mask for f in same if f.mask is not None])
        yield Finding(largest.z, kind, max(f.score for f in same), largest.reason + more, mask)


def _area(finding: Finding) -> float:
    return float(finding.mask.sum()) if finding.mask is not None else 0.0


def _regions(
    view: View, z: int, here: Image, others: list[Image], kept: Mask, factor: float
) -> Iterator[Finding]:
    """A part of the section whose brightness is not that of both neighbours."""
    t = view.t
    wide: Callable[[Image], Image] = lambda image: see.blur(image, t.region_px)  # noqa: E731
    steps = np.stack([wide(np.where(kept, here - other, 0)) for other in others])
    agree = (steps > 0).all(0) | (steps < 0).all(0)
    step = np.where(agree & kept, np.abs(steps).min(0), 0)
    mask = np.zeros(here.shape, bool)
    for window, part in see.parts(step > t.region * factor, step > t.region / 2, math.ceil(t.region_share * mask.size)):
        mask[window] |= part
    if mask.any():
        score = float(np.percentile(step[mask], 95)) / t.region
        why = f"{mask.mean():.0%} of the tile is brighter or darker than in both neighbours"
        yield Finding(z, "contrast", score, why, mask)
