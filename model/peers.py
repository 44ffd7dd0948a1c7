"""Learned peers: networks of the restorer's size that answer in one step, trained by us on the same windows for the
same minutes, so that the table does not only hold methods that never learned.

    python -m model.peers --data DATA --out PEERS --kinds sepconv regression --minutes 30 --threads 1

The networks are in `peernets`. Both learn the squared error plus a tenth of Charbonnier in the pixels to restore, as
the restorer's x0 does: what differs is the method, not the loss. Under `steps` the weights are a function of the seed
on one kind of CPU; under `minutes` they also depend on the machine's pace.

PEERS holds what `peerfile` writes.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model import data
from model.checkpoint import CheckpointError
from model.data import condition_of
from model.device import HELP, resolve, use_threads
from model.diffusion import SIGMA_DATA, Condition
from model.network import REFERENCE_NM
from model.peerfile import Record, load_network, save
from model.peernets import KINDS, Config, Peer

log = logging.getLogger("model.peers")

_RATE, _WARMUP, _COOLDOWN, _CLIP, _AVERAGE = 1e-3, 100, 0.35, 1.0, 0.998  # as trainer.Settings has them
_SAVE_S, _LOG_S = 120.0, 30.0

Floats = npt.NDArray[np.float32]


class Case(Protocol):
    """What a peer needs to know of a case; the evaluation's own class has more."""

    @property
    def sections(self) -> Floats: ...  # (D, H, W) in [0, 1], 0.5 where hidden

    @property
    def known(self) -> npt.NDArray[np.bool_]: ...  # (D, H, W)

    @property
    def targets(self) -> tuple[int, int]: ...  # half-open along D

    @property
    def voxel_nm(self) -> tuple[float, float, float]: ...  # (z, y, x)


Restore = Callable[[Case], Floats]  # a case -> its targets, (K, H, W) in [0, 1]


# ---- training ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Budget:
    """When training ends: after `minutes` or `steps`, whichever is given; the first of them if both are."""

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if not (self.minutes or 0) > 0 and not (self.steps or 0) > 0:
            raise ValueError("say how long to train: --minutes 30, or --steps 2000")

    def spent(self, done: int, seconds: float) -> float:
        """Share of the budget that is used up; training ends at 1."""
        return max(done / self.steps if self.steps else 0.0, seconds / (60 * self.minutes) if self.minutes else 0.0)


def train(
    kind: str,
    stacks: Sequence[data.Stack],
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    size: int = 8,  # windows a batch
    crop: int = 128,  # pixels a side
    threads: int = 0,  # CPU threads of torch; 0 = leave torch's default
    device: str = "cpu",
    config: Config | None = None,  # None: about as large as the restorer that ships
    folder: Path | None = None,  # save here every two minutes and at the end
    clock: Callable[[], float] = time.monotonic,
) -> Peer:
    """A trained peer, in evaluation mode, with the moving average of its weights. Raises ValueError."""
    budget, config = Budget(minutes, steps), config or Config()
    _check(kind, config, stacks, size, crop)
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    network: Peer = KINDS[kind](config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    learner = _Learner(network)
    record = Record(kind, asdict(config), [s.part.name for s in stacks], seed, size, crop, 0, 0.0, False)
    begin = saved = logged = clock()
    losses, spent = list[float](), 0.0
    while spent < 1:
        batch = data.batch(stacks, seed=seed, step=record.steps, size=size, crop=crop)
        losses.append(learner.step(*condition_of(batch, torch.device(device)), spent))
        now = clock()
        spent = budget.spent(record.steps + 1, now - begin)
        record = replace(record, steps=record.steps + 1, minutes=round((now - begin) / 60, 2), finished=spent >= 1)
        if now - logged > _LOG_S or spent >= 1:
            log.info("%s step %d loss %.4f, %.0f %% done", kind, record.steps, np.mean(losses), 100 * min(spent, 1))
            logged, losses = now, []
        if folder and (now - saved > _SAVE_S or spent >= 1):
            save(folder, learner.average, record)
            saved = now
    network.load_state_dict(learner.average)
    return network.eval()


class _Learner:
    """The optimizer and the moving average of one network's weights."""

    def __init__(self, network: Peer) -> None:
        self.network, self.done = network, 0
        self.optimizer = torch.optim.AdamW(network.parameters(), _RATE, betas=(0.9, 0.99), weight_decay=1e-2)
        self.average = {k: v.detach().clone() for k, v in network.named_parameters()}

    def step(self, condition: Condition, truth: Tensor, spent: float) -> float:
        """One update when `spent` of the budget is gone; returns the loss."""
        rate = _RATE * min((self.done + 1) / _WARMUP, 1.0, max(1 - spent, 0.0) / _COOLDOWN)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(truth.device.type, torch.bfloat16):
            made = self.network(condition)
        value = loss(made, truth, condition.target_known)
        value.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP)
        if not bool(torch.isfinite(norm)):
            raise FloatingPointError(f"step {self.done}: the gradient is not finite")
        self.optimizer.step()
        keep = min(_AVERAGE, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            for name, weight in self.network.named_parameters():
                self.average[name].lerp_(weight, 1 - keep)
        self.done += 1
        return float(value.detach())


def loss(made: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Squared error plus a tenth of Charbonnier where the target is lost, in sigma_data; all (B, 1, K, H, W)."""
    lost = 1 - known
    error = (made - truth) / SIGMA_DATA
    return (lost * (error**2 + 0.1 * (error**2 + 1e-4).sqrt())).sum() / lost.sum().clamp(min=1)


def _check(kind: str, config: Config, stacks: Sequence[data.Stack], size: int, crop: int) -> None:
    """Raises ValueError for what cannot be trained, before anything is spent."""
    if kind not in KINDS:
        raise ValueError(f"no peer is called {kind!r}; there are {', '.join(KINDS)}")
    if size < 1:
        raise ValueError(f"--batch {size} must be at least 1")
    least = min(s.narrowest for s in stacks)
    if crop % config.stride or not 0 < crop <= least:
        raise ValueError(f"--crop {crop} must be a multiple of {config.stride} and fit the smallest stack ({least} px)")


# ---- use -----------------------------------------------------------------------------------------------------------


def load(folder: Path) -> dict[str, Restore]:
    """Every peer found in `folder`, by kind, ready to restore. Raises CheckpointError for one that is damaged."""
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}; python -m model.peers --out {folder} trains peers into it")
    found = [k for k in KINDS if (folder / f"{k}.safetensors").exists()]
    return {kind: restorer(load_network(folder / f"{kind}.safetensors")) for kind in found}


def restorer(network: Peer) -> Restore:
    """The network as a method: whole sections in one pass, known pixels of the targets as they came."""

    def restore(case: Case) -> Floats:
        a, b = case.targets
        device = next(network.parameters()).device
        condition = _condition(case, network.config.stride, device)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            made = network(condition)[0, 0].float()
        h, w = case.sections.shape[1:]
        image = ((made + 1) / 2).clamp(0, 1).cpu().numpy()[:, :h, :w]
        return np.where(case.known[a:b], case.sections[a:b], image).astype(np.float32)

    return restore


def _condition(case: Case, stride: int, device: torch.device) -> Condition:
    """At most two sections a side, one window, bottom and right edges repeated up to a multiple of `stride`."""
    a, b = case.targets
    first, last = max(a - 2, 0), min(b + 2, len(case.sections))
    pad = [(0, 0), *((0, -n % stride) for n in case.sections.shape[1:])]
    known = torch.from_numpy(np.pad(case.known[first:last], pad, "edge").astype(np.float32))[None, None]
    sections = torch.from_numpy(np.pad(case.sections[first:last].astype(np.float32), pad, "edge"))[None, None]
    sections = torch.where(known > 0.5, 2 * sections - 1, 0.0)  # whatever hides in unknown voxels ends here
    size = torch.tensor([[case.voxel_nm[0] / REFERENCE_NM[0], case.voxel_nm[2] / REFERENCE_NM[1]]]).log2()
    return Condition(sections.to(device), known.to(device), (a - first, b - first), size.to(device))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0 when every kind is trained."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    use_threads(options.threads)
    device, stacks = resolve(options.device), data.load(options.data)
    for kind in options.kinds:
        train(
            kind, stacks, minutes=options.minutes, steps=options.steps, seed=options.seed, size=options.batch,
            crop=options.crop, device=device, folder=options.out,
        )  # fmt: skip
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "zmend evaluate --train-peers", description="Train the networks to compare the restorer with."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of manifest.json and the npz files it names")
    parser.add_argument("--out", type=Path, required=True, help="folder for KIND.safetensors and KIND.json")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--minutes", type=float, help="time budget of each kind")
    parser.add_argument("--steps", type=int, help="updates of each kind; with --minutes, whichever ends first")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0 = torch's default")
    parser.add_argument("--device", default="cpu", help=HELP)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
