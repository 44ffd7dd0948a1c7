"""Windows: what the networks that see damage learn from. Three sections of real tissue, wounded at random.

Each is cut at any angle and about the size of a scan, imaged as if by another microscope; some show tissue that is
imagined, sheaths of myelin, or an edge beyond which there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from model import stacks, wounds
from model.wounds import SHARES, WOUNDS, Bools, Image

PIXEL_NM = 8.0  # of a scan
EDGE = 192  # px of a window
IMAGINED, BARE, SHEATHED, WIDENED = 0.12, 0.06, 0.2, 0.3  # of the windows
WIDEST = 1.8  # times the contrast of the tissue: that of sections with a vessel, or much myelin
MOST_GREY = 8.0  # units of tissue
WIDER = 1.2  # times the contrast of neighbours: more is damage, not stain
Window = list[Image]  # the sections before, here, after
Floats = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lesson:
    """Sections to learn from."""

    name: str  # of the stack, as in manifest.json
    sections: slice
    share: float
    bad: tuple[int, ...] = ()  # not to be learnt as intact: damage that people have named
    isotropic: bool = False  # slices 10 nm thick: any axis, three to five of them a section
    raw: npt.NDArray[np.uint8] | None = None
    nm: float = PIXEL_NM
    licence: str = ""


# Detection is measured on the others, among them all test parts.
LESSONS = (
    Lesson("vnc_stack1", slice(0, 14), 0.35, bad=(12,)),
    Lesson("vnc_stack2_z00_09", slice(0, 10), 0.25),
    Lesson("isbi2012_train", slice(0, 30), 0.25, bad=(8, 20)),
    Lesson("fib25_train1", slice(0, 250), 0.15, isotropic=True),
)


def load(folder: Path, lessons: Sequence[Lesson] = LESSONS) -> list[Lesson]:
    """The lessons with their sections. Raises StackError."""
    manifest = stacks.read_manifest(folder)
    return [
        replace(
            lesson, raw=stacks.read(folder, lesson.name, manifest[lesson.name])["raw"][lesson.sections],
            nm=stacks.voxel_of(manifest[lesson.name])[1],
            licence=str(manifest[lesson.name].get("licence", "not stated")),
        )
        for lesson in lessons
    ]  # fmt: skip


def window(lesson: Lesson, rng: np.random.Generator) -> Window:
    """Three sections, cut alike at any angle and about the scale of a scan, the outer two moved a little.

    Sometimes a neighbour is one further off, or stands for both.
    """
    raw, step = lesson.raw, 1
    assert raw is not None
    if lesson.isotropic:
        raw, step = np.moveaxis(raw, int(rng.integers(3)), 0), int(rng.integers(3, 6))
    good = [z for z in range(step, len(raw) - step) if z not in lesson.bad]
    z = int(rng.choice(good))
    sections = [z - step, z, z + step]
    if rng.random() < 0.12:
        side = int(rng.choice([0, 2]))
        sections[side] = int(np.clip(z + (side - 1) * 2 * step, 0, len(raw) - 1))
    zoom, turn = wounds.spread(rng, 0.75, 1.35) * lesson.nm / PIXEL_NM, rng.uniform(0, 2 * np.pi)
    mirror = int(rng.choice([-1, 1]))
    cos, sin = np.cos(turn) / zoom, np.sin(turn) / zoom
    turned = np.array([[mirror * cos, -sin], [mirror * sin, cos]])
    half = EDGE / 2 / zoom
    x, y = (rng.uniform(min(half, n / 2), max(n - half, n / 2)) for n in (raw.shape[2], raw.shape[1]))
    cut = []
    for k, section in enumerate(sections):
        at = np.array([x, y]) + (rng.normal(0, 2.0, 2) if k != 1 else 0.0)
        affine = np.column_stack([turned, at - turned @ [EDGE / 2, EDGE / 2]])
        source = raw[section] if zoom >= 0.8 else cv2.GaussianBlur(raw[section], (0, 0), 0.45 / zoom)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        out = cv2.warpAffine(source, affine, (EDGE, EDGE), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        cut.append(np.asarray(out, np.float32))
    cut = cut[::-1] if rng.random() < 0.5 else cut
    return [cut[2], *cut[1:]] if rng.random() < 0.15 else cut


def imagined(rng: np.random.Generator) -> Window:
    """Profiles that wander a little from section to section, with membranes around: tissue of no animal, so that the
    networks do not take what they have not seen for damage."""
    wide = wounds.spread(rng, 4, 18)
    fields = [wounds.blur(rng.standard_normal((EDGE, EDGE)).astype(np.float32), wide) for _ in range(2)]
    turn, thick, dark = rng.uniform(0.04, 0.22), wounds.spread(rng, 0.06, 0.25), rng.uniform(40, 130)
    sections = []
    for k in range(3):
        field = np.cos(turn * k) * fields[0] + np.sin(turn * k) * fields[1]
        field = field / field.std()
        grey = 160 - dark * np.exp(-((field / thick) ** 2)) + rng.uniform(5, 25) * np.sign(field)
        sections.append(np.clip(grey + rng.normal(0, rng.uniform(3, 12), grey.shape), 0, 255).astype(np.float32))
    return sections


def sheathed(window: Window, rng: np.random.Generator) -> Window:
    """With a sheath of myelin, or two around what they wrap, which no fly has: wide and dark in all three sections."""
    shape = window[1].shape
    line, half, apart = wounds.curve(rng, shape), wounds.spread(rng, 4, 20), rng.uniform(0, 40)
    lamella, moves = rng.uniform(1.5, 4), rng.normal(0, 2.5, (3, 3))
    dark = np.float32(rng.uniform(0.2, 0.5) * np.median(window[1]))
    out = []
    for section, (y, x, wider) in zip(window, moves, strict=True):
        moved = np.array([[1, 0, x], [0, 1, y]], np.float32)
        far = cv2.warpAffine(line, moved, shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        far = np.abs(far - np.float32(apart)) - np.float32(max(half + wider, 2))
        core = np.clip(0.5 - far / rng.uniform(1, 3), 0, 1).astype(np.float32)
        layers = dark + 12 * np.sin(far / lamella) + rng.normal(0, rng.uniform(2, 8), shape)
        out.append(np.asarray(section + core * (layers - section), np.float32))
    return out


def imaged(window: Window, rng: np.random.Generator) -> Window:
    """Each section with a brightness, contrast, sharpness and noise of its own, as from another microscope."""
    gain = rng.uniform(0.6, 1.3)
    return [_imaged(section, gain, rng) for section in window]


def _imaged(section: Image, gain: float, rng: np.random.Generator) -> Image:
    mean = section.mean()
    out = (section - mean) * gain * rng.uniform(0.85, 1.18) + mean * rng.uniform(0.8, 1.15) + rng.uniform(-8, 8)
    out = wounds.blur(out, rng.uniform(0.3, 1.2)) if rng.random() < 0.25 else out
    out = out + rng.normal(0, 14 * rng.uniform(0, 1) ** 2, out.shape)
    out = out + wounds.soft(rng, out.shape, 2) * rng.uniform(0, 8) if rng.random() < 0.3 else out
    return np.asarray(np.clip(out, 0, 255), np.float32)


def wounded(window: Window, rng: np.random.Generator) -> tuple[Window, Classes]:
    """A third is intact, some have two wounds; neighbours have some too, and those are not to be seen."""
    before, here, after = window
    truth = np.zeros(here.shape, np.int64)
    many = int(rng.choice(3, p=[0.33, 0.52, 0.15]))
    for which in sorted(_drawn(many, rng), reverse=True):  # regions first: what lies in them is still seen
        here, mask = _wounded(here, which, rng)
        truth[mask] = which + 1
    beside = [_wounded(s, _drawn(1, rng)[0], rng)[0] if rng.random() < 0.12 else s for s in (before, after)]
    return [beside[0], here, beside[1]], truth


def _drawn(many: int, rng: np.random.Generator) -> list[int]:
    return [int(which) for which in rng.choice(len(WOUNDS), many, p=SHARES)]


def _wounded(section: Image, which: int, rng: np.random.Generator) -> tuple[Image, Bools]:
    out, mask = list(WOUNDS.values())[which](section, rng)
    return np.clip(np.round(out), 0, 255).astype(np.float32), mask


def standard(window: Window, wider: float = 1.0) -> Floats:
    """In units of tissue, as scans see sections (pipeline/view.py): (3, EDGE, EDGE). wider: than here the greys of the
    tile are that the window was cut from, times."""
    looks = [np.percentile(wounds.blur(section, 2.0)[::2, ::2], (16, 50, 84)) for section in window]
    wide = [max((look[2] - look[0]) / 2, 1e-3) * wider for look in looks]
    wide[1] = min(wide[1], WIDER * float(np.median([wide[0], wide[2]])))
    units = [(s - look[1]) / w for s, look, w in zip(window, looks, wide, strict=True)]
    return np.asarray(np.clip(np.stack(units), -MOST_GREY, MOST_GREY), np.float32)


def sample(lessons: Sequence[Lesson], rng: np.random.Generator) -> tuple[Floats, Classes]:
    """What the spotter sees, and the class of every pixel of `here`."""
    share = np.array([lesson.share for lesson in lessons])
    lesson = lessons[int(rng.choice(len(lessons), p=share / share.sum()))]
    sections = imagined(rng) if rng.random() < IMAGINED else window(lesson, rng)
    sections = sheathed(sections, rng) if rng.random() < SHEATHED else sections
    found, truth = wounded(imaged(sections, rng), rng)
    if rng.random() < BARE:
        nothing = _bare(rng)
        found, truth = [np.where(nothing, np.float32(0), s) for s in found], np.where(nothing, 0, truth)
    return standard(found, rng.uniform(1, WIDEST) if rng.random() < WIDENED else 1.0), truth


def _bare(rng: np.random.Generator) -> Bools:
    """Where the volume has no tissue: beyond a straight edge."""
    y, x = np.indices((EDGE, EDGE)) - EDGE / 2
    turn = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else rng.integers(4) * np.pi / 2
    return np.asarray(x * np.cos(turn) + y * np.sin(turn) > rng.uniform(0.1, 0.45) * EDGE)
