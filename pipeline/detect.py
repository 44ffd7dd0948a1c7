"""Detect: sections of one tile in, findings out. Decides by `Thresholds`, with the images of `detectors`.

    looks       numbers of every section, then robust deviations from the sections around:
                missing, blank, duplicate, misaligned, contrast, blur, noise, as a whole
    places      for sections that are fit to be looked at, in the room of that name: fold, crack, contamination, lost
                tiles, regions of other contrast

A section's findings depend on the sections within `margin` of it, and on nothing else: so a volume may be cut anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import detectors as see
from pipeline.detectors import TO_SIGMA, Looks, Mask
from pipeline.places import places
from pipeline.thresholds import Thresholds
from pipeline.view import Finding, Jump, Section, Stack, View, move

Floats = NDArray[np.float64]
LEAST_AROUND = 2  # sections on a side: one alone may be the bad one
# Standard deviations are at least this: few sections are alike by luck.
FLOOR = {"low": 0.06, "high": 0.06, "contrast": 0.04, "fine": 0.03, "finest": 0.03, "ratio": 0.03, "streak": 0.15}
UNLIKE = 0.1  # correlation by which a copy must be less like its other neighbour to be taken for the earlier of two
HOPELESS = ("missing", "blank", "duplicate", "noise", "blur", "misaligned")  # no neighbour to compare others with


def margin(t: Thresholds) -> int:
    """Sections either side that a finding may depend on: the window, and the windows of those in it."""
    return 2 * t.window + 2


def detect(stack: Stack, absent: Sequence[bool], t: Thresholds) -> tuple[list[Finding], list[Jump]]:
    """What is wrong with each section (z, y, x) of a tile; absent: which of them the store does not hold."""
    sections = [Section.of(image, gone, t) for image, gone in zip(stack, absent, strict=True)]
    return judge(View(sections, t), range(len(sections)))


def judge(view: View, core: range, spread: Callable[..., Iterable[Any]] = map) -> tuple[list[Finding], list[Jump]]:
    """What is wrong with the sections of the core; those around it are looked at as far as that needs.

    A tile that is empty in most sections around is background, and nothing is found in it. spread: a `map`, maybe over
    threads.
    """
    t = view.t
    found: dict[int, Finding] = {f.z: f for f in _empty(view)}
    fit = [z not in found and section.look.flat < t.flat_share for z, section in enumerate(view.sections)]
    jumps: list[Jump] = []
    for seek in (_copies, _odd, _aside):
        new = list(seek(view, fit, jumps))
        found |= {f.z: f for f in new if f.z not in found}
        fit = [ok and not (z in found and found[z].kind in HOPELESS) for z, ok in enumerate(fit)]
    aside = {z for z, f in found.items() if f.kind == "misaligned"}  # from which the stack only comes back
    jumps = [j for j in jumps if j.z - 1 not in aside]
    fit = [ok and z not in found for z, ok in enumerate(fit)]
    parts = chain.from_iterable(spread(lambda z: list(places(view, z, fit)), [z for z in core if fit[z]]))
    here = [f for z, f in found.items() if z in core]
    return sorted([*here, *parts], key=lambda f: (f.z, f.kind)), [j for j in jumps if j.z in core]


# --- whole sections


def _empty(view: View) -> Iterator[Finding]:
    """Sections that are not there, or hold nothing, where those around hold tissue."""
    t = view.t
    full = [not section.absent and section.look.flat < t.flat_share for section in view.sections]
    for z, look in enumerate(section.look for section in view.sections):
        before, after = view.around(z, full)
        if not before and not after:
            continue  # background, or more missing than can be told from it
        usual = median(view.sections[k].look.contrast for k in (*before, *after))
        if view.sections[z].absent:
            yield Finding(z, "missing", 10.0, "its chunks do not exist in the store")
        elif not full[z]:
            yield Finding(z, "blank", 10.0, f"{look.flat:.0%} of it is one grey value ({look.grey:.0f})")
        elif look.contrast < t.blank_contrast * usual:
            less = look.contrast / usual
            yield Finding(z, "blank", t.blank_contrast / less, f"{less:.0%} of the contrast of the sections around")


def _copies(view: View, fit: Sequence[bool], _: list[Jump]) -> Iterator[Finding]:
    """Two sections that share their noise are one; the one that is less like its other neighbour is the copy."""
    pairs = [float(a @ b) for a, b in pairwise(section.fine for section in view.sections)]
    for z, same in enumerate(pairs):
        nearby = [p for k, p in enumerate(pairs) if abs(k - z) <= view.t.window and k != z and fit[k] and fit[k + 1]]
        usual = median(nearby) if nearby else 0.0
        if fit[z] and fit[z + 1] and same > max(view.t.same, (1 + usual) / 2):
            copy = _which(view, z, fit)
            other = z if copy == z + 1 else z + 1
            why = f"shares its noise with section {{z{other - copy:+d}}}"
            yield Finding(copy, "duplicate", same / view.t.same, why)


def _which(view: View, z: int, fit: Sequence[bool]) -> int:
    before = see.alike(view.sections[z - 1].coarse, view.sections[z].coarse) if z and fit[z - 1] else 0.0
    last = z + 2 >= len(view.sections) or not fit[z + 2]
    after = 0.0 if last else see.alike(view.sections[z + 1].coarse, view.sections[z + 2].coarse)
    return z if after > before + UNLIKE and z and not last else z + 1


def _odd(view: View, fit: Sequence[bool], _: list[Jump]) -> Iterator[Finding]:
    """Sections whose numbers lie apart from those on both sides."""
    few, steps = _steps(view, fit)
    for z in (z for z, ok in enumerate(fit) if ok):
        here = {name: (float(step[z]), float(score[z])) for name, (step, score) in steps.items()}
        yield from _judge(z, here, view.t, view.t.alone if few[z] else 1.0)


def _steps(view: View, fit: Sequence[bool]) -> tuple[Mask, dict[str, tuple[Floats, Floats]]]:
    """Which sections have few around on a side; by number how far each is from both sides, and that in robust standard
    deviations of the numbers around. 0 where it lies between them: the stack changes there, and no section is bad.
    """
    numbers = _numbers([section.look for section in view.sections])
    names, values = list(numbers), np.stack(list(numbers.values()))
    sides = _sides(np.where(fit, values, np.nan), view.t.window)  # (2, names, sections, window)
    usual = _median(np.concatenate(list(_sides(np.where(fit, np.exp(numbers["contrast"]), np.nan), view.t.window)), -1))
    counts = np.isfinite(sides[:, 0]).sum(-1)
    middles = _median(sides)
    apart = np.where(counts[:, None] >= LEAST_AROUND, values - middles, np.nan)
    with np.errstate(invalid="ignore"):
        low, high = np.fmin(*apart), np.fmax(*apart)
        step = np.where(low * high > 0, np.where(np.abs(low) <= np.abs(high), low, high), 0.0)
    sigma = TO_SIGMA * np.nan_to_num(_median(np.abs(np.concatenate(list(sides - middles[..., None]), -1))))
    usual = np.where(np.isfinite(usual), usual, 1.0)
    found = {}
    for n, name in enumerate(names):
        unit = usual if name in ("low", "high") else 1.0
        found[name] = step[n] / unit, step[n] / unit / np.maximum(sigma[n] / unit, FLOOR[name])
    return counts.min(0) < LEAST_AROUND, found


def _sides(values: Floats, reach: int) -> Floats:
    """(…, n) -> (2, …, n, reach): those before and those after each, nearest first; NaN beyond the ends."""
    ends = [(0, 0)] * (values.ndim - 1) + [(reach, reach)]
    wide = np.lib.stride_tricks.sliding_window_view(np.pad(values, ends, constant_values=np.nan), 2 * reach + 1, -1)
    return np.stack([wide[..., reach - 1 :: -1], wide[..., reach + 1 :]])


def _median(values: Floats) -> Floats:
    """Over the last axis, of those that are no NaN; NaN where all are."""
    values = np.sort(values, -1)
    count = np.isfinite(values).sum(-1, keepdims=True)
    pair = [np.take_along_axis(values, at, -1)[..., 0] for at in (np.maximum(count - 1, 0) // 2, count // 2)]
    return np.asarray((pair[0] + pair[1]) / 2)


def _numbers(looks: Sequence[Looks]) -> dict[str, Floats]:
    logs = {n: np.log([getattr(look, n) for look in looks]) for n in ("fine", "finest", "contrast", "streak")}
    grey = {n: np.array([getattr(look, n) for look in looks]) for n in ("low", "high")}
    return logs | grey | {"ratio": (logs["fine"] + logs["finest"]) / 2 - logs["contrast"]}


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
        back, gain = move(view, z, before[0])
        if gain < view.t.jump_gain or math.hypot(*back) < view.t.jump_px:
            continue
        on, more = move(view, z, after[0]) if after else ((0, 0), 0.0)
        if more >= view.t.jump_gain and math.hypot(on[0] - back[0], on[1] - back[1]) < max(
            view.t.jump_px, math.hypot(*back) / 2  # the stack may drift besides
        ):
            far = math.hypot(*back)
            yield Finding(z, "misaligned", far / view.t.jump_px, f"lies {{px{far:.0f}}} from both neighbours")
        else:
            jumps.append(Jump(z, back, gain))
