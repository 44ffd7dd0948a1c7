"""Detect: sections of one tile in, findings out. Decides by `Thresholds`, with the images of `detectors`.

    looks       numbers of every section, then robust deviations from the sections around:
                missing, blank, duplicate, misaligned, contrast, blur, noise, as a whole
    places      for sections that are fit to be looked at: what is darker or brighter than all that is near in both
                neighbours (fold, crack, contamination), empty squares (missing), regions of other contrast

A section's findings depend on the sections within `margin` of it, and on nothing else: so a volume may be cut anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline import detectors as see
from pipeline.detectors import TO_SIGMA, Image, Looks, Mask
from pipeline.thresholds import Thresholds

Stack = NDArray[np.uint8]  # (z, y, x)
LEAST_AROUND = 2  # sections on a side: one alone may be the bad one
# Standard deviations are at least this: few sections are alike by luck.
FLOOR = {"low": 0.06, "high": 0.06, "contrast": 0.04, "fine": 0.03, "finest": 0.03, "ratio": 0.03, "streak": 0.15}
UNLIKE = 0.1  # correlation by which a copy must be less like its other neighbour to be taken for the earlier of two
WIDER = 1.2  # times the contrast of neighbours: more is damage, not stain
SQUARE = 0.85  # of the box around it: lost tiles fill theirs, saturated tissue does not
HOPELESS = ("missing", "blank", "duplicate", "noise", "blur", "misaligned")  # no neighbour to compare others with


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with one section of a tile."""

    z: int  # in the stack
    kind: str  # a class of flags
    score: float  # how far beyond its threshold: 1 is at it
    reason: str  # for people
    mask: Mask | None = None  # (y, x); none: the whole tile


@dataclass(frozen=True, slots=True)
class Jump:
    """From this section on the stack lies elsewhere: no section is bad, and none is to be restored."""

    z: int
    move: tuple[int, int]  # px of the scan, (y, x)
    gain: float  # of the correlation once moved back


@dataclass(frozen=True)
class View:
    """A stack, and what was measured of each section."""

    stack: Stack
    absent: Sequence[bool]
    empty: list[Mask]
    looks: list[Looks]
    coarse: list[Image]
    quantiles: NDArray[np.float32]  # (z, 4), in units of tissue: dark, rim of dark, rim of bright, bright
    t: Thresholds

    @staticmethod
    def of(stack: Stack, absent: Sequence[bool], t: Thresholds) -> View:
        empty = [see.flat(image, t.flat_grey) for image in stack]
        numbers = [see.looks(image, hole, t.smooth_px) for image, hole in zip(stack, empty, strict=True)]
        wanted = (t.extreme, t.rim, 100 - t.rim, 100 - t.extreme)
        smooth = (_standard(*pair, t) for pair in zip(stack, numbers, strict=True))
        tails = np.array([np.percentile(image[::2, ::2], wanted) for image in smooth], np.float32)
        return View(stack, absent, empty, numbers, [see.coarse(image) for image in stack], tails, t)

    def tails(self, z: int, sign: int) -> tuple[float, float]:
        """What is darker than all tissue around, and what is as dark as the rim of damage; sign -1: of the negative."""
        near = self.quantiles[max(0, z - self.t.window) : z + self.t.window + 1]  # (z, 4)
        dark, rim, light_rim, light = (float(v) for v in np.median(near, 0))
        return (dark, rim) if sign > 0 else (-light, -light_rim)

    def around(self, z: int, fit: Sequence[bool]) -> tuple[list[int], list[int]]:
        """The sections before and after that are fit, nearest first, within the window."""
        reach = self.t.window
        return (
            [k for k in range(z - 1, max(-1, z - 1 - reach), -1) if fit[k]],
            [k for k in range(z + 1, min(len(self.stack), z + 1 + reach)) if fit[k]],
        )


def margin(t: Thresholds) -> int:
    """Sections either side that a finding may depend on: the window, and the windows of those in it."""
    return 2 * t.window + 2


def detect(stack: Stack, absent: Sequence[bool], t: Thresholds) -> tuple[list[Finding], list[Jump]]:
    """What is wrong with each section (z, y, x) of a tile; absent: which of them the store does not hold.

    A tile that is empty in most sections around is background, and nothing is found in it.
    """
    view = View.of(stack, absent, t)
    found: dict[int, Finding] = {f.z: f for f in _empty(view)}
    fit = [z not in found and view.looks[z].flat < t.flat_share for z in range(len(stack))]
    jumps: list[Jump] = []
    for seek in (_copies, _odd, _aside):
        new = list(seek(view, fit, jumps))
        found |= {f.z: f for f in new if f.z not in found}
        fit = [ok and not (z in found and found[z].kind in HOPELESS) for z, ok in enumerate(fit)]
    aside = {z for z, f in found.items() if f.kind == "misaligned"}  # from which the stack only comes back
    jumps = [j for j in jumps if j.z - 1 not in aside]
    fit = [ok and z not in found for z, ok in enumerate(fit)]
    places = [p for z, ok in enumerate(fit) if ok for p in _places(view, z, fit)]
    return sorted([*found.values(), *places], key=lambda f: (f.z, f.kind)), jumps


# --- whole sections


def _empty(view: View) -> Iterator[Finding]:
    """Sections that are not there, or hold nothing, where those around hold tissue."""
    t = view.t
    full = [not a and look.flat < t.flat_share for look, a in zip(view.looks, view.absent, strict=True)]
    for z, look in enumerate(view.looks):
        before, after = view.around(z, full)
        if not before and not after:
            continue  # background, or more missing than can be told from it
        usual = float(np.median([view.looks[k].contrast for k in (*before, *after)]))
        if view.absent[z]:
            yield Finding(z, "missing", 10.0, "its chunks do not exist in the store")
        elif not full[z]:
            yield Finding(z, "blank", 10.0, f"{look.flat:.0%} of it is one grey value ({look.grey:.0f})")
        elif look.contrast < t.blank_contrast * usual:
            less = look.contrast / usual
            yield Finding(z, "blank", t.blank_contrast / less, f"{less:.0%} of the contrast of the sections around")


def _copies(view: View, fit: Sequence[bool], _: list[Jump]) -> Iterator[Finding]:
    """Two sections that share their noise are one; the one that is less like its other neighbour is the copy."""
    pairs = [see.fine_alike(a, b) for a, b in pairwise(view.stack)]
    for z, same in enumerate(pairs):
        nearby = [p for k, p in enumerate(pairs) if abs(k - z) <= view.t.window and k != z and fit[k] and fit[k + 1]]
        usual = float(np.median(nearby)) if nearby else 0.0
        if fit[z] and fit[z + 1] and same > max(view.t.same, (1 + usual) / 2):
            copy = _which(view, z, fit)
            other = z if copy == z + 1 else z + 1
            why = f"shares its noise with section {{z{other - copy:+d}}}"
            yield Finding(copy, "duplicate", same / view.t.same, why)


def _which(view: View, z: int, fit: Sequence[bool]) -> int:
    before = see.alike(view.coarse[z - 1], view.coarse[z]) if z and fit[z - 1] else 0.0
    last = z + 2 >= len(view.stack) or not fit[z + 2]
    after = 0.0 if last else see.alike(view.coarse[z + 1], view.coarse[z + 2])
    return z if after > before + UNLIKE and z and not last else z + 1


def _odd(view: View, fit: Sequence[bool], _: list[Jump]) -> Iterator[Finding]:
    """Sections whose numbers lie apart from those on both sides."""
    numbers = _numbers(view.looks)
    for z in (z for z, ok in enumerate(fit) if ok):
        sides = view.around(z, fit)
        near = [*sides[0], *sides[1]]
        usual = float(np.median([view.looks[k].contrast for k in near])) if near else 1.0
        grey = {"low", "high"}
        steps = {
            name: _apart(values / (usual if name in grey else 1.0), z, sides, FLOOR[name])
            for name, values in numbers.items()
        }
        yield from _judge(z, steps, view.t, 1.0 if min(map(len, sides)) >= LEAST_AROUND else view.t.alone)


def _numbers(looks: Sequence[Looks]) -> dict[str, NDArray[np.float64]]:
    logs = {n: np.log([getattr(look, n) for look in looks]) for n in ("fine", "finest", "contrast", "streak")}
    grey = {n: np.array([getattr(look, n) for look in looks]) for n in ("low", "high")}
    return logs | grey | {"ratio": (logs["fine"] + logs["finest"]) / 2 - logs["contrast"]}


def _apart(
    values: NDArray[np.float64], z: int, around: tuple[list[int], list[int]], floor: float
) -> tuple[float, float]:
    """How far a section's number is from both sides, and that in robust standard deviations of the numbers around.

    0 where it lies between them: the stack changes there, and no section is bad.
    """
    sides = [values[z] - float(np.median(values[s])) for s in around if len(s) >= LEAST_AROUND]
    if not sides or min(sides) * max(sides) <= 0:
        return 0.0, 0.0
    step = min(sides, key=abs)
    spread = [values[k] - float(np.median(values[s])) for s in around if s for k in s]
    sigma = max(TO_SIGMA * float(np.median(np.abs(spread))), floor)
    return float(step), float(step) / sigma


def _both(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """What two numbers agree on: the smaller step, and the surer of the scores; or none."""
    if one[0] * other[0] <= 0:
        return 0.0, 0.0
    return min(one[0], other[0], key=abs), max(one[1], other[1], key=abs)


def _judge(z: int, steps: dict[str, tuple[float, float]], t: Thresholds, factor: float) -> Iterator[Finding]:
    """At most one finding: what is furthest beyond its thresholds, times the factor.

    Two numbers must agree, so that damage to a part of a section is not taken for a change of all of it: brightness
    moves dark and light tissue, contrast moves fine detail too, and a blur fine detail alone.
    """
    grey, fine, streak = _both(steps["low"], steps["high"]), _both(steps["fine"], steps["finest"]), steps["streak"]
    gain, sharp = _both(steps["contrast"], fine), _both(fine, steps["ratio"])
    rules = (
        ("contrast", grey, abs(grey[0]) / t.grey, f"off in brightness by {grey[0]:+.1f} of its contrast"),
        ("contrast", gain, abs(gain[0]) / t.contrast, f"{math.exp(gain[0]):.2f} times the contrast"),
        ("blur", sharp, -sharp[0] / t.sharp, f"{math.exp(sharp[0]):.0%} of the fine detail"),
        ("noise", sharp, sharp[0] / t.noise, f"{math.exp(sharp[0]):.1f} times the fine detail"),
        ("noise", streak, streak[0] / t.streak, f"{math.exp(streak[0]):.1f} times the streaks"),
    )
    beyond = [(min(amount, abs(step[1]) / t.score) / factor, kind, why) for kind, step, amount, why in rules]
    most, kind, why = max(beyond)
    if most >= 1:
        yield Finding(z, kind, most, f"{why}, beside the sections around")


def _aside(view: View, fit: Sequence[bool], jumps: list[Jump]) -> Iterator[Finding]:
    """Sections that lie elsewhere than both neighbours, which agree; where they do not, the stack jumps."""
    for z in (z for z, ok in enumerate(fit) if ok):
        before, after = view.around(z, fit)
        if not before:
            continue
        back, gain = _move(view, z, before[0])
        if gain < view.t.jump_gain or math.hypot(*back) < view.t.jump_px:
            continue
        on, more = _move(view, z, after[0]) if after else ((0, 0), 0.0)
        if more >= view.t.jump_gain and math.hypot(on[0] - back[0], on[1] - back[1]) < max(
            view.t.jump_px, math.hypot(*back) / 2  # the stack may drift besides
        ):
            far = math.hypot(*back)
            yield Finding(z, "misaligned", far / view.t.jump_px, f"lies {{px{far:.0f}}} from both neighbours")
        else:
            jumps.append(Jump(z, back, gain))


def _move(view: View, z: int, other: int) -> tuple[tuple[int, int], float]:
    """Where a section lies as seen from another one, and by how much that explains it better."""
    move, before, after = see.offset(view.coarse[z], view.coarse[other])
    return move, after - before if after >= view.t.jump_corr else 0.0


# --- places in a section


def _places(view: View, z: int, fit: Sequence[bool]) -> Iterator[Finding]:
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
    here = _standard(view.stack[z], look, view.t)
    moves = [_move(view, z, k) for k in near]
    far = [move if gain >= view.t.jump_gain / 2 else (0, 0) for move, gain in moves]
    others = [_standard(view.stack[k], view.looks[k], view.t) for k in near]
    return here, [see.moved(other, move) for other, move in zip(others, far, strict=True)]


def _standard(image: NDArray[np.uint8], look: Looks, t: Thresholds) -> Image:
    return (see.blur(image, t.smooth_px) - np.float32(look.grey)) / np.float32(look.contrast)


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
