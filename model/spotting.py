"""Training of what scans see damage with, scout and spotter: real sections, wounded at random.

    python -m model.spotting --data DATA --out pipeline/weights
    python -m model.spotting --data DATA --out pipeline/weights --only scout --steps 1500
    python -m model.spotting --data DATA --out new --from pipeline/weights --steps 600 --fresh 300

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
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.spotter import CLASSES, SIDES, Scout, Spotter, export, hints, read
from model.windows import PIXEL_NM, Classes, Floats, Lesson, load, sample

log = logging.getLogger("model.spotting")

BATCH, RATE, WARMUP, CLIP, DECAY = 16, 3e-3, 100, 1.0, 1e-3
AVERAGE, EARLY = 0.995, 0.95  # of the weights' moving average, and of that in the first 200 steps
# Damage is rare among pixels, and a missed one costs more than one that is seen and is none.
COSTS = (1.0, 2.0, 2.0, 2.0, 1.5)
SCOUT_COST, HURT = 3.0, 0.1  # of a missed place; share of it that is wounded


Pair = tuple[Tensor, Tensor]


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
    lessons: Sequence[Lesson], steps: int, seed: int, only: str = "", begin: Path | None = None, most: float = RATE,
    fresh: int = 0,
) -> dict[str, nn.Module]:
    """Spotter and scout (or one of them) by name, from the same windows; a batch depends on (seed, step) alone.

    begin: the folder of networks that are trained on. most: the rate after the warm-up. fresh: steps with windows of
    their own, which those after them show again; 0: all. To draw them takes half of the time, of the scout's most.
    """
    pupils = {name: _pupil(made, seed) for name, made in NETWORKS.items() if only in ("", name)}
    if begin is not None:
        _go_on(pupils, begin, torch.from_numpy(batch(lessons, seed, steps)[0]))
    kept: dict[int, dict[str, Pair]] = {}
    recent, began = dict.fromkeys(pupils, math.nan), time.monotonic()
    for step in range(steps):
        rate = most * min(1.0, (step + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        keep = AVERAGE if step > 200 else EARLY
        drawn = step % (fresh or steps)
        pairs = kept.get(drawn) or _shown(list(pupils), *batch(lessons, seed, drawn))
        if fresh:
            kept[drawn] = pairs
        for name, pupil in pupils.items():
            loss = LOSSES[name](pupil, *pairs[name])
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


def _shown(names: Sequence[str], seen: Floats, truth: Classes) -> dict[str, Pair]:
    """What each network sees of the windows, and what it should say; small, since it may be kept."""
    sections, classes = torch.from_numpy(seen), torch.from_numpy(truth)
    pairs = {"spotter": (sections.half(), classes.byte())}
    if "scout" in names:
        hurt = F.avg_pool2d((classes > 0).float()[:, None], SIDES) > HURT
        pairs["scout"] = hints(sections).half(), hurt
    return {name: pairs[name] for name in names}


def _spotted(spotter: Pupil, seen: Tensor, truth: Tensor) -> Tensor:
    return F.cross_entropy(spotter.answer(seen.float()), truth.long(), weight=torch.tensor(COSTS))


def _scouted(scout: Pupil, shown: Tensor, hurt: Tensor) -> Tensor:
    answer, cost = scout.answer(shown.float()), torch.tensor(SCOUT_COST)
    return F.binary_cross_entropy_with_logits(answer, hurt.float(), pos_weight=cost)


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
    parser.add_argument("--fresh", type=int, default=0, help="steps with new windows, shown again then; 0: all")
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    lessons, began = load(args.data), time.monotonic()
    networks = train(lessons, args.steps, args.seed, args.only, args.begin, args.rate, args.fresh)
    args.out.mkdir(parents=True, exist_ok=True)
    example = torch.zeros(1, 3, 16 * SIDES, 16 * SIDES)
    at = args.out / "spotting.json"
    training = json.loads(at.read_text())["training"] if args.only else {}
    before = json.loads((args.begin / at.name).read_text()) if args.begin else {}
    for name, network in networks.items():
        export(network, hints(example) if name == "scout" else example, args.out / f"{name}.onnx")
        minutes = round((time.monotonic() - began) / 60, 1)
        training[name] = {"steps": args.steps, "seed": args.seed, "batch": BATCH, "rate": args.rate}
        training[name] |= {"fresh": args.fresh or args.steps, "minutes": minutes}
        if before:
            training[name]["from"] = {**before["training"][name], "sha256": before["sha256"][f"{name}.onnx"]}
    at.write_text(json.dumps(card(args.out, lessons, training), indent=1) + "\n")


if __name__ == "__main__":
    main()
