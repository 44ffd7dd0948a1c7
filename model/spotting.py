"""Training of what scans see damage with, scout and spotter: real sections, wounded at random.

    python -m model.spotting --data DATA --out pipeline/weights
    python -m model.spotting --data DATA --out pipeline/weights --only scout --steps 1500
    python -m model.spotting --data DATA --out new --from pipeline/weights --steps 1600 --rate 1.5e-3

Half an hour on one core for both; deterministic for a seed on one kind of CPU. Beside the networks (.onnx) lies their
card, spotting.json: on which sections they were trained, under which terms, and their sha256.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import stacks, wounds
from model.spotter import CLASSES, SIDES, Scout, Spotter, export, hints, read
from model.wounds import SHARES, WOUNDS, Bools, Image

log = logging.getLogger("model.spotting")

PIXEL_NM = 8.0  # of a scan
EDGE = 192  # px of a window
BATCH, RATE, WARMUP, CLIP, DECAY = 16, 3e-3, 100, 1.0, 1e-3
AVERAGE, EARLY = 0.995, 0.95  # of the weights' moving average, and of that in the first 200 steps
# Damage is rare among pixels, and a missed one costs more than one that is seen and is none.
COSTS = (1.0, 2.0, 2.0, 2.0, 1.5)
SCOUT_COST, HURT = 3.0, 0.1  # of a missed place; share of it that is wounded
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


class Pupil:
    """A network that learns, and the moving average of its weights, which is what comes of it."""

    def __init__(self, network: nn.Module, average: nn.Module) -> None:
        average.load_state_dict(network.state_dict())
        self.average = average
        self.network: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)

    def answer(self, seen: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = self.network(seen.to(memory_format=torch.channels_last))
        return logits.float()

    def learn(self, loss: Tensor, rate: float, keep: float) -> None:
        """One step of AdamW; the average keeps that much of what it was."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        with torch.no_grad():
            for weight, newer in zip(self.average.parameters(), self.network.parameters(), strict=True):
                weight.lerp_(newer, 1 - keep)
            for number, latest in zip(self.average.buffers(), self.network.buffers(), strict=True):
                number.copy_(latest)


def train(
    lessons: Sequence[Lesson], steps: int, seed: int, only: str = "", begin: Path | None = None, most: float = RATE
) -> dict[str, nn.Module]:
    """Spotter and scout (or one of them) by name, from the same windows; a batch depends on (seed, step) alone.

    begin: the folder of networks that are trained on. most: the rate after the warm-up.
    """
    pupils = {name: _pupil(made, seed) for name, made in NETWORKS.items() if only in ("", name)}
    if begin is not None:
        _go_on(pupils, begin, torch.from_numpy(batch(lessons, seed, steps)[0]))
    recent, began = dict.fromkeys(pupils, math.nan), time.monotonic()
    for step in range(steps):
        rate = most * min(1.0, (step + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        keep = AVERAGE if step > 200 else EARLY
        seen, truth = (torch.from_numpy(part) for part in batch(lessons, seed, step))
        for name, pupil in pupils.items():
            loss = LOSSES[name](pupil, seen, truth)
            pupil.learn(loss, rate, keep)
            recent[name] = 0.98 * recent[name] + 0.02 * loss.item() if step else loss.item()
        if step % 100 == 99:
            log.info("step %d of %d, loss %s, %.0f s", step + 1, steps, recent, time.monotonic() - began)
    return {name: pupil.average for name, pupil in pupils.items()}


def batch(lessons: Sequence[Lesson], seed: int, step: int) -> tuple[Floats, Classes]:
    """The windows of one step, (BATCH, 3, EDGE, EDGE), and what is in them."""
    pairs = [sample(lessons, np.random.default_rng([seed, step, item])) for item in range(BATCH)]
    seen, truth = (np.stack(part) for part in zip(*pairs, strict=True))
    return seen, truth


def _go_on(pupils: dict[str, Pupil], begin: Path, seen: Tensor) -> None:
    for name, pupil in pupils.items():
        read(pupil.network, begin / f"{name}.onnx", hints(seen) if name == "scout" else seen)
        pupil.average.load_state_dict(pupil.network.state_dict())


def _pupil(made: type[nn.Module], seed: int) -> Pupil:
    torch.manual_seed(seed)  # what one becomes depends neither on how the other is built nor on whether it learns
    return Pupil(made(), made())


def _spotted(spotter: Pupil, seen: Tensor, truth: Tensor) -> Tensor:
    return F.cross_entropy(spotter.answer(seen), truth, weight=torch.tensor(COSTS))


def _scouted(scout: Pupil, seen: Tensor, truth: Tensor) -> Tensor:
    hurt = F.avg_pool2d((truth > 0).float()[:, None], SIDES) > HURT
    return F.binary_cross_entropy_with_logits(
        scout.answer(hints(seen)), hurt.float(), pos_weight=torch.tensor(SCOUT_COST)
    )


NETWORKS: dict[str, type[nn.Module]] = {"spotter": Spotter, "scout": Scout}
LOSSES = {"spotter": _spotted, "scout": _scouted}


def card(folder: Path, lessons: Sequence[Lesson], training: dict[str, Any]) -> dict[str, Any]:
    """What the networks owe to their data, and how they were made."""
    return {
        "sha256": {f"{n}.onnx": hashlib.sha256((folder / f"{n}.onnx").read_bytes()).hexdigest() for n in training},
        "classes": list(CLASSES),
        "pixel_nm": PIXEL_NM,
        "data": [
            {"name": x.name, "sections": f"{x.sections.start}-{x.sections.stop - 1}", "licence": x.licence}
            for x in lessons
        ],
        "licence": "The terms of the data bind these networks. "
        + "; ".join(dict.fromkeys(f"{x.name}: {x.licence}" for x in lessons)),
        "training": training,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Train, export, write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of manifest.json and the npz files it names")
    parser.add_argument("--out", type=Path, required=True, help="folder for spotter.onnx, scout.onnx and their card")
    parser.add_argument("--only", choices=["spotter", "scout"], default="", help="the other one in the folder stays")
    parser.add_argument("--from", dest="begin", type=Path, help="folder of networks that are trained on")
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    lessons, began = load(args.data), time.monotonic()
    networks = train(lessons, args.steps, args.seed, args.only, args.begin, args.rate)
    args.out.mkdir(parents=True, exist_ok=True)
    example = torch.zeros(1, 3, 16 * SIDES, 16 * SIDES)
    at = args.out / "spotting.json"
    training = json.loads(at.read_text())["training"] if args.only else {}
    before = json.loads((args.begin / at.name).read_text()) if args.begin else {}
    for name, network in networks.items():
        export(network, hints(example) if name == "scout" else example, args.out / f"{name}.onnx")
        minutes = round((time.monotonic() - began) / 60, 1)
        training[name] = {"steps": args.steps, "seed": args.seed, "batch": BATCH, "rate": args.rate, "minutes": minutes}
        if before:
            training[name]["from"] = {**before["training"][name], "sha256": before["sha256"][f"{name}.onnx"]}
    at.write_text(json.dumps(card(args.out, lessons, training), indent=1) + "\n")


if __name__ == "__main__":
    main()
