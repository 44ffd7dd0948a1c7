"""zmend train: resumable segments under a time budget.

    zmend train --data DATA --state STATE --minutes 9         # again and again until it returns 0
    zmend train --data DATA --state STATE --minutes 0 --export mine.safetensors
    zmend train --data DATA --state STATE --from default --rate 3e-4 --steps 1000     # fine-tune what is shipped
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from model import data
from model.checkpoint import Card, export, load_network, locate, read_card
from model.network import PRESETS, NetworkConfig
from model.sampler import SAMPLERS, Sampler
from model.trainer import Settings, Trainer
from model.validation import Score

log = logging.getLogger("model.train")

Triple = tuple[float, float, float]

TUNING_RATE = 3e-4  # from weights that exist: a third of what training from scratch takes, so that little is forgotten
MOST_RATE = 0.1  # beyond it AdamW diverges at once
DEFAULTS = Settings()


def run(trainer: Trainer, state: Path, minutes: float, clock: Callable[[], float] = time.monotonic) -> bool:
    """Train until finished or out of minutes; save every two minutes. True when finished.

    Beside the state: progress.jsonl, and pictures/ of what the validation windows look like.
    """
    begin = saved = logged = clock()
    before, losses = trainer.seconds, list[float]()
    while trainer.agree(not trainer.finished and clock() - begin < minutes * 60):
        losses.append(trainer.step())
        score = trainer.validate()
        now = clock()
        trainer.seconds = before + now - begin
        if trainer.rank == 0 and (score or now - logged > 15):
            pace = len(losses) * trainer.settings.size / max(now - logged, 1e-9)
            _report(trainer, state.parent, float(np.mean(losses)), pace, score)
            logged, losses = now, []
        if now - saved > 120:
            trainer.save(state)
            saved = now
    trainer.save(state)
    return trainer.finished


def _report(trainer: Trainer, folder: Path, mean_loss: float, pace: float, score: Score | None) -> None:
    """One line to the log and to progress.jsonl; a picture with every validation."""
    line = {"step": trainer.done, "loss": round(mean_loss, 4), "rate": trainer.rate(), "windows_s": round(pace, 2)}
    if score and trainer.validation:
        line |= {"blind_db": round(score.blind, 3), "fine_db": round(score.fine, 3), "best_step": trainer.best_step}
        trainer.validation.picture(folder / "pictures" / f"{trainer.done:06d}.png", bf16=trainer.settings.bf16)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "progress.jsonl").open("a") as out:
        out.write(json.dumps(line) + "\n")
    log.info(" ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0 = all steps done, 75 = out of time, run again to continue."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
    if "WORLD_SIZE" in os.environ:  # started by torchrun: one process a GPU, or a CPU core
        dist.init_process_group("nccl" if options.device == "cuda" else "gloo")
    manifest = data.read_manifest(options.data)
    stacks = data.load(options.data, data.parts_of(manifest, options.only))
    kept = data.load(options.data, data.validation_of(manifest, options.only))
    source = locate(options.start) if options.start else None
    parent = read_card(source) if source else None
    settings = Settings(
        NetworkConfig.from_dict(parent.network) if parent else PRESETS[options.preset],
        Sampler(**parent.sampler) if parent else SAMPLERS[options.preset],
        options.seed, options.steps, options.batch, options.crop,
        options.rate if options.rate is not None else TUNING_RATE if parent else DEFAULTS.rate, blind=options.blind,
    )  # fmt: skip
    _check(settings, stacks)
    trainer = Trainer(settings, stacks, options.device, kept)
    if source and parent:
        trainer.begin(dict(load_network(source, parent).named_parameters()), parent.sha256)
    state = options.state / "state.safetensors"
    if state.exists():
        trainer.resume(state)
        log.info("resumed at step %d", trainer.done)
    finished = True if options.minutes <= 0 else run(trainer, state, options.minutes)
    finished = trainer.agree(finished)
    if options.export and not trainer.done:
        raise ValueError(f"there is nothing to export: {state} holds no training step; check --state")
    if options.export and not trainer.rank:  # the one that validates, and no two write one file
        export(options.export, trainer.result, card_of(options.export.stem, trainer, parent))
        log.info("exported %s", options.export)
    if not finished:
        log.info("time is up at step %d of %d; the same command goes on", trainer.done, settings.steps)
    return 0 if finished else 75


def _check(settings: Settings, stacks: Sequence[data.Stack]) -> None:
    """Raises ValueError for crops that the network or a stack cannot give, and for settings out of range."""
    if not 0 <= settings.blind <= 1:
        raise ValueError(f"--blind {settings.blind:g} is a share of the windows: 0 to 1")
    if settings.steps < 1 or settings.size < 1:
        raise ValueError(f"--steps {settings.steps} and --batch {settings.size} must be at least 1")
    if not 0 < settings.rate <= MOST_RATE:
        raise ValueError(f"--rate {settings.rate:g} must be above 0 and at most {MOST_RATE:g}")
    stride, least = settings.network.stride, min(min(s.raw.shape[1:]) for s in stacks)
    if settings.crop % stride or not 4 * stride <= settings.crop <= least:
        raise ValueError(
            f"--crop {settings.crop} must be a multiple of {stride}, at least {4 * stride}, "
            f"and fit the smallest stack ({least} px)"
        )


def card_of(name: str, trainer: Trainer, parent: Card | None = None) -> Card:
    """The card of what a trainer has made; the file's sha256 and the metrics are filled in later.

    What was fine-tuned owes to its parent's data too: their names, terms and voxel sizes stay in the card. So do the
    parent's tile, halo and width of the ensemble: the network is the same.
    """
    s = trainer.settings
    sources = [
        {
            "name": t.part.name,
            "sections": f"{t.part.sections[0]}-{t.part.sections[0] + t.raw.shape[0] - 1}",
            "rows": f"{t.part.rows[0]}-{t.part.rows[0] + t.raw.shape[1] - 1}",
            "licence": t.licence,
        }
        for t in trainer.stacks
    ]
    if parent:
        sources += [dict(d) for d in parent.data if dict(d) not in sources]
    terms = "; ".join(sorted({f"{d['name']}: {d.get('licence', 'not stated')}" for d in sources}))
    training = {"steps": trainer.done, "batch": s.size, "crop": s.crop, "seed": s.seed,
                "rate": s.rate, "blind": s.blind, "minutes": round(trainer.seconds / 60, 1),
                "device": trainer.device.type}  # fmt: skip
    low, high = voxel_range(trainer.stacks)
    if parent:
        training["from"] = {"name": parent.name, "sha256": parent.sha256, "training": dict(parent.training)}
        low, high = _least(low, parent.voxel_nm_min), _most(high, parent.voxel_nm_max)
    card = Card(
        name, "", s.network.to_dict(), asdict(s.sampler), sources, f"The terms of the data bind these weights. {terms}",
        training, low, high, stride=s.network.stride,
    )  # fmt: skip
    kept = ("context", "max_gap", "tile", "halo", "spread_scale")
    return replace(card, **{name: getattr(parent, name) for name in kept}) if parent else card


def _least(a: Triple, b: Triple) -> Triple:
    return (min(a[0], b[0]), min(a[1], b[1]), min(a[2], b[2]))


def _most(a: Triple, b: Triple) -> Triple:
    return (max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2]))


def voxel_range(stacks: Sequence[data.Stack]) -> tuple[Triple, Triple]:
    """Least and largest (z, y, x) voxel size that training covered, with a little to spare: lateral size is also
    doubled in training, and an isotropic stack stands for sections four slices thick."""
    thick = [s.voxel_nm[0] * (4 if s.part.isotropic else 1) for s in stacks]
    fine = [s.voxel_nm[1] for s in stacks]
    wide = [s.voxel_nm[1] * (1 if s.part.isotropic else 2) for s in stacks]
    low, high = (0.875 * min(thick), 0.9 * min(fine)), (1.1 * max(thick), 1.1 * max(wide))
    return (low[0], low[1], low[1]), (high[0], high[1], high[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("zmend train", description="Train a restorer; run again to continue.")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help='folder of npz files (array `raw`, uint8, z y x) and manifest.json: {"mine": {"file": "mine.npz", '
        '"voxel_zyx_nm": [45, 4.6, 4.6], "licence": "..."}}',
    )
    parser.add_argument("--state", type=Path, default=Path(".train/cpu"), help="folder of the resumable state")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument(
        "--from",
        dest="start",
        metavar="WEIGHTS",
        help="fine-tune these weights (a shipped name or a .safetensors file) instead of starting from scratch; "
        "their network overrules --preset",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="STACK", help="train on these stacks of the manifest")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument(
        "--minutes",
        type=float,
        default=9.0,
        help="time budget of this segment (9); when it is up the exit code is 75: run again; 0 = only export",
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument(
        "--rate",
        type=float,
        help=f"peak learning rate (from scratch {DEFAULTS.rate:g}, with --from {TUNING_RATE:g})",
    )
    parser.add_argument(
        "--blind",
        type=float,
        default=DEFAULTS.blind,
        help=f"share of windows that train the posterior mean, the sampler's first step ({DEFAULTS.blind:g})",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0 = torch's default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--export", type=Path, help="write the averaged weights and their card here")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
