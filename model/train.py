"""zmend train: resumable segments under a time budget.

    zmend train --data DATA --state STATE --minutes 9         # again and again until it returns 0
    zmend train --data DATA --state STATE --minutes 0 --export mine.safetensors
    zmend train --data DATA --state STATE --from default --rate 3e-4 --steps 1000     # fine-tune what is shipped
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from model import data
from model.cards import card_of
from model.checkpoint import Card, export, load_network, locate, network_of, read_card, sampler_of
from model.device import HELP, resolve, use_threads
from model.network import PRESETS
from model.sampler import SAMPLERS
from model.stacks import read_manifest
from model.trainer import SCRATCH, Settings, Trainer
from model.validation import Score

log = logging.getLogger("model.train")

TUNING_RATE = 3e-4  # from weights that exist: a third of what training from scratch takes, so that little is forgotten
MOST_RATE = 0.1  # beyond it AdamW diverges at once
MOST_BATCH = 4096
DEFAULTS = Settings()


def run(trainer: Trainer, state: Path, minutes: float, clock: Callable[[], float] = time.monotonic) -> bool:
    """Train until finished or out of minutes; save every two minutes. True when finished.

    Beside the state: progress.jsonl, and pictures/ of what the validation windows look like.
    """
    begin = saved = logged = clock()
    before, losses = trainer.seconds, list[float]()
    if not trainer.done and trainer.begun != SCRATCH and (score := trainer.validate()):
        _report(trainer, state.parent, float("nan"), 0.0, score)  # of the weights it begins from, to compare with
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
    line: dict[str, float | None] = {"step": trainer.done}
    if trainer.done:
        line |= {"loss": round(mean_loss, 4), "rate": trainer.rate(), "windows_s": round(pace, 2)}
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
    source = locate(options.start) if options.start else None
    parent = read_card(source) if source else None
    settings = _settings(options, parent)
    _check(options, settings)
    use_threads(options.threads)
    device = resolve(options.device)
    if options.check:
        return 0
    with _together(device):
        trainer = _trainer(options, settings, device)
        if source and parent:
            trainer.begin(dict(load_network(source, parent).named_parameters()), parent.sha256)
        return _segment(options, trainer, parent)


def _settings(options: argparse.Namespace, parent: Card | None) -> Settings:
    own = parent if not options.preset else None  # --preset with --from: the same tensors, other switches
    network = network_of(own) if own else PRESETS[options.preset or "cpu"]
    sampler = sampler_of(own) if own else SAMPLERS[options.preset or "cpu"]
    usual = TUNING_RATE if parent else DEFAULTS.rate
    rate = usual if options.rate is None else options.rate
    return Settings(
        network, sampler, options.seed, options.steps, options.batch, options.crop, rate, blind=options.blind
    )


def _check(options: argparse.Namespace, settings: Settings) -> None:
    """What can be told without the data. Raises ValueError."""
    if not 0 <= settings.blind <= 1:
        raise ValueError(f"--blind {settings.blind:g} is a share of the windows: 0 to 1")
    if settings.steps < 1 or settings.size < 1:
        raise ValueError(f"--steps {settings.steps} and --batch {settings.size} must be at least 1")
    if settings.size > MOST_BATCH:
        raise ValueError(f"--batch {settings.size} is more than {MOST_BATCH}: no memory holds it")
    if not 0 < settings.rate <= MOST_RATE:
        raise ValueError(f"--rate {settings.rate:g} must be above 0 and at most {MOST_RATE:g}")
    if not 0 <= options.minutes < math.inf:
        raise ValueError(f"--minutes {options.minutes:g} must be a number from 0; 0 only exports")
    if settings.seed < 0:
        raise ValueError(f"--seed {settings.seed} must be 0 or more")
    stride = settings.network.stride
    if settings.crop % stride or settings.crop < 4 * stride:
        raise ValueError(f"--crop {settings.crop} must be a multiple of {stride} and at least {4 * stride}")
    if options.export and (options.export.suffix != ".safetensors" or options.export.is_dir()):
        raise ValueError(f"--export {options.export} must be a file whose name ends in .safetensors")
    there = next(p for p in (options.state, *options.state.absolute().parents) if p.exists())
    if not there.is_dir():
        raise ValueError(f"--state {options.state}: {there} is a file: name a folder, which may be new")


@contextmanager
def _together(device: str) -> Iterator[None]:
    """Among the processes that torchrun started, if it did: one a GPU, or a CPU core."""
    if "WORLD_SIZE" not in os.environ:
        yield
        return
    if device != "cpu":
        torch.cuda.set_device(device)  # else the collectives of every process meet on GPU 0
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _trainer(options: argparse.Namespace, settings: Settings, device: str) -> Trainer:
    """A trainer with its data in memory. Raises ValueError where these do not go together."""
    manifest = read_manifest(options.data)
    stacks = data.load(options.data, data.parts_of(manifest, options.only))
    kept = data.load(options.data, data.validation_of(manifest, options.only))
    least = min(s.narrowest for s in stacks)
    if settings.crop > least:
        raise ValueError(f"--crop {settings.crop} must fit the smallest stack, which is {least} px")
    narrow = [s.part.name for s in kept if s.narrowest < 4 * settings.network.stride]
    if narrow:
        raise ValueError(f"stack {narrow[0]!r} is too small to validate on: give it another use in manifest.json")
    return Trainer(settings, stacks, device, kept)


def _segment(options: argparse.Namespace, trainer: Trainer, parent: Card | None) -> int:
    """One segment of training, from the state to the exit code."""
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
        if parent and trainer.best_step == 0:
            log.warning("no step scored better than %s did: these are its weights, unchanged", parent.name)
    if finished and options.minutes:
        log.info("finished at step %d of %d", trainer.done, trainer.settings.steps)
    if not finished:
        log.info("time is up at step %d of %d; the same command goes on", trainer.done, trainer.settings.steps)
    return 0 if finished else 75


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
    parser.add_argument("--preset", choices=sorted(PRESETS), help="network and sampler (cpu)")
    parser.add_argument(
        "--from",
        dest="start",
        metavar="WEIGHTS",
        help="fine-tune these weights (a shipped name or a .safetensors file) instead of starting from scratch; "
        "with their network and sampler, unless --preset names others",
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
    parser.add_argument("--device", default="cpu", help=HELP)
    parser.add_argument("--export", type=Path, help="write the averaged weights and their card here (.safetensors)")
    parser.add_argument("--check", action="store_true", help="only see whether the options are good")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
