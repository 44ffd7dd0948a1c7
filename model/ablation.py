"""Ablation: what each part of the method is worth. Every variant that needs weights of its own is trained on the same
windows, from the same seed, for the same steps or minutes; the others change only the sampler and use `full`'s weights.

    zmend evaluate --ablate --data DATA --out OUT --minutes 20      # again after an interruption: it goes on

OUT/variants keeps each variant's weights (with its card) and scores, so that nothing is done twice; the result is
OUT/ablation.json and OUT/ablation.md. Made with other options, what is there is refused, never mixed in.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model import data, report, scenes, tally
from model.baselines import constant, ours
from model.cards import card_of
from model.checkpoint import Card, export, load_network, read_card
from model.device import HELP, resolve, use_threads
from model.metrics import MembraneClassifier
from model.network import PRESETS, AnisoUNet3D
from model.sampler import Sampler
from model.trainer import Trainer
from model.variants import VARIANTS, Budget, Variant

log = logging.getLogger("model.ablation")

TASKS = ("vnc1", "fold", "vnc2")
COLUMNS = ("gain_db", "ncc", "power", "membrane_f1")
_SAVE_S = 120.0  # seconds between two saves of a variant in training
_HONEST = """In brackets: the 95 % interval of the difference from `full` (or from the variant named) on the same
sections, by bootstrap over blocks within each section. **A difference whose interval holds 0 means nothing.** One whose
interval does not still rests on a single training of each variant: another seed may undo a small one, and longer
training may turn the order."""
Sums = npt.NDArray[np.float64]  # of one section, see tally: (blocks, columns)
Scores = dict[tuple[str, str], list[Sums]]  # (task, "mean" or "sample") -> its restored sections


# ---- training ------------------------------------------------------------------------------------------------------


def train(trainer: Trainer, budget: Budget, state: Path, clock: Callable[[], float] = time.monotonic) -> None:
    """Train until the budget ends; `state` is saved every two minutes and continued from if it is there."""
    if state.exists():
        trainer.resume(state)
        log.info("%s: resumed at step %d", state.stem, trainer.done)
    before, begin = trainer.seconds, clock()
    saved = begin
    while not trainer.done or trainer.done < trainer.settings.steps:
        trainer.step()
        now = clock()
        trainer.seconds = before + now - begin
        trainer.settings = replace(trainer.settings, steps=budget.steps_at(trainer.done, trainer.seconds))
        if now - saved > _SAVE_S:
            trainer.save(state)
            saved = now
            log.info("%s: step %d, %.1f minutes", state.stem, trainer.done, trainer.seconds / 60)


def weights_of(name: str, budget: Budget, stacks: Sequence[data.Stack], folder: Path, device: str
               ) -> tuple[AnisoUNet3D, Card]:  # fmt: skip
    """The network of a trained variant and its card, from `folder` if there, else trained now and put there."""
    path, settings = folder / f"{name}.safetensors", budget.settings(VARIANTS[name])
    asked = json.loads(json.dumps({**asdict(budget), "data": [s.part.name for s in stacks],
                                   "settings": asdict(replace(settings, steps=0))}))  # fmt: skip
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        trainer, state = Trainer(settings, stacks, device), folder / f"{name}.state"
        train(trainer, budget, state)
        card = card_of(name, trainer)
        export(path, trainer.average, replace(card, training={**card.training, "asked": asked}))
        state.unlink(missing_ok=True)
    card = read_card(path)
    _check_same(path, card.training.get("asked"), asked)
    return load_network(path, card).to(device), card


def _check_same(path: Path, found: object, asked: object) -> None:
    if found != asked:
        raise ValueError(f"{path} was made with {found}, not with {asked}: give the same options, or another --out")


# ---- scores --------------------------------------------------------------------------------------------------------


def score(method: scenes.Method, cases: Sequence[scenes.Case], classifier: MembraneClassifier) -> list[Sums]:
    """The sums of every section that the cases want restored, over its unknown voxels only."""
    found = []
    for case in cases:
        made, flat = case.complete(method(case.withheld())), constant(case)
        for k, where in enumerate(case.unknown):
            drawn = None if case.membranes is None else case.membranes[k]
            seen = None if drawn is None else classifier(made[k])
            found.append(tally.tally(case.truth[k], made[k], flat[k], where, drawn, seen))
    return found


@dataclass(frozen=True, slots=True)
class Measure:
    """What every variant is measured on."""

    data: Path
    tasks: tuple[str, ...]
    count: int  # cases a task
    edge: int  # pixels square in the middle of each

    def scores(self, network: AnisoUNet3D, variant: Variant) -> Scores:
        sampler = replace(Sampler(), **variant.sampler)
        outputs = {"mean": ours(network, replace(sampler, steps=1))} if variant.mean else {}
        outputs["sample"] = ours(network, sampler)
        classifier, scores = _classifier(self.data), Scores()
        for task in self.tasks:
            cases = scenes.limit(scenes.load(self.data, task), self.count, self.edge)
            scores |= {(task, output): score(method, cases, classifier) for output, method in outputs.items()}
        return scores

    def to_dict(self) -> dict[str, Any]:
        return {"tasks": list(self.tasks), "cases": self.count, "edge": self.edge}


@cache
def _classifier(folder: Path) -> MembraneClassifier:
    return MembraneClassifier.fit(*scenes.training_sections(folder))


def write_scores(path: Path, scores: Scores, asked: object) -> None:
    """Beside, then renamed. Every array under task/output/number."""
    part = path.with_suffix(".partial.npz")
    named = {f"{t}/{o}/{i:03d}": s for (t, o), each in scores.items() for i, s in enumerate(each)}
    np.savez(part, allow_pickle=False, asked=np.array(json.dumps(asked)), **named)
    part.replace(path)


def read_scores(path: Path, asked: object) -> Scores:
    """What `write_scores` wrote; refused if it was asked for something else."""
    scores: Scores = {}
    with np.load(path) as arrays:
        _check_same(path, json.loads(str(arrays["asked"])), asked)
        for name in arrays.files:  # in the order in which they were written
            if name != "asked":
                task, output, _ = name.split("/")
                scores.setdefault((task, output), []).append(arrays[name])
    return scores


# ---- report --------------------------------------------------------------------------------------------------------


def compare(scores: Scores, others: Scores) -> dict[str, dict[str, dict[str, Any]]]:
    """Task -> output -> column -> its value, and the 95 % interval of its difference from the others' (None: unknown).
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (task, output), sections in scores.items():
        cells = found.setdefault(task, {}).setdefault(output, {})
        for column in COLUMNS:
            value = float(np.mean([tally.row(s)[column] for s in sections]))
            other = others.get((task, output))
            difference = tally.interval(column, sections, other) if other else None
            cells[column] = {"value": value, "difference": difference}
    return found


def markdown(record: Mapping[str, Any]) -> str:
    """What was run, then tables, one a task and output."""
    facts = ("command", "date", "machine", "device", "budget", "measured")
    lines = ["# Ablation", "", *(f"- {k}: {_words(record[k])}" for k in facts), "", _HONEST, ""]
    variants = record["variants"]
    pairs = [(task, output) for v in variants.values() for task, each in v["scores"].items() for output in each]
    for task, output in sorted(set(pairs), key=pairs.index):
        lines += [f"## {task}, {'posterior mean' if output == 'mean' else 'sample'}", ""]
        lines += [f"| variant | steps trained | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
        for name, entry in variants.items():
            if cells := entry["scores"].get(task, {}).get(output):
                values = " | ".join(_cell(cells[c]) for c in COLUMNS)
                beside = "" if entry["against"] == "full" else f" (against {entry['against']})"
                lines.append(f"| {name}: {entry['says']}{beside} | {entry['steps']} | {values} |")
        lines.append("")
    return "\n".join(lines)


def _words(fact: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in fact.items() if v is not None) if isinstance(fact, dict) else str(fact)


def _cell(cell: Mapping[str, Any]) -> str:
    if cell["value"] is None:
        return ""
    between = cell["difference"]
    return f"{cell['value']:.3f}" + (f" ({between[0]:+.3f} to {between[1]:+.3f})" if between else "")


# ---- command line --------------------------------------------------------------------------------------------------


def run(names: Sequence[str], budget: Budget, measure: Measure, out: Path, device: str) -> dict[str, Any]:
    """Train and measure what is not there yet; variant -> what the report says of it."""
    stacks, folder = data.load(measure.data), out / "variants"
    _check(budget, measure, stacks)
    entries: dict[str, Any] = {}
    found: dict[str, Scores] = {}
    for name in dict.fromkeys(["full", *(VARIANTS[n].against for n in names), *names]):
        variant = VARIANTS[name]
        network, card = weights_of(name if variant.trained else "full", budget, stacks, folder, device)
        sampler = asdict(replace(Sampler(), **variant.sampler))
        asked, path = {**measure.to_dict(), "weights": card.sha256, "sampler": sampler}, folder / f"{name}.npz"
        if not path.exists():
            write_scores(path, measure.scores(network, variant), asked)
        found[name] = read_scores(path, asked)
        others = {} if name == variant.against else found[variant.against]
        entries[name] = {
            "says": variant.says,
            "against": variant.against,
            "steps": card.training["steps"],
            "minutes": card.training["minutes"],
            "parameters": sum(v.numel() for v in network.parameters()),
            "weights": card.sha256,
            "scores": compare(found[name], others),
        }
        log.info("%s: done", name)
    return entries


def _check(budget: Budget, measure: Measure, stacks: Sequence[data.Stack]) -> None:
    """Raises ValueError for what the network, a stack or the metrics cannot give."""
    stride, least = PRESETS[budget.preset].stride, min(s.narrowest for s in stacks)
    if budget.crop % stride or not 0 < budget.crop <= least:
        raise ValueError(f"--crop {budget.crop} must be a multiple of {stride} and fit the smallest stack ({least} px)")
    if budget.size < 1 or measure.count < 1 or budget.seed < 0:
        raise ValueError("--batch and --cases must be at least 1, --seed at least 0")
    if measure.edge < 2 * stride or measure.edge % stride:
        raise ValueError(f"--edge {measure.edge} must be a multiple of {stride}, at least {2 * stride}")
    scenes.check(measure.data, measure.tasks)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0 when the report is written."""
    argv = sys.argv[1:] if argv is None else argv
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    use_threads(options.threads)
    budget = Budget(options.steps, options.minutes, options.batch, options.crop, options.seed, options.preset)
    measure = Measure(options.data, tuple(options.tasks), options.cases, options.edge)
    device = resolve(options.device)
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file: name a folder, which may be new")
    entries = run(options.only, budget, measure, options.out, device)
    weights = {name: entry["weights"] for name, entry in entries.items()}
    record = report.provenance(["--ablate", *argv], weights, budget.seed, torch.get_num_threads())
    record |= {"device": _device(device), "budget": asdict(budget), "measured": measure.to_dict()}
    record = report.plain({**record, "variants": entries})
    text = markdown(record)
    (options.out / "ablation.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.out / "ablation.md").write_text(text)
    print(text)
    return 0


def _device(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("zmend evaluate --ablate", description="Measure what each part is worth.")
    parser.add_argument("--data", type=Path, required=True, help="folder of manifest.json and the npz files it names")
    parser.add_argument("--out", type=Path, required=True, help="folder for ablation.md, ablation.json and variants/")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME",
                        help=f"beside full: {', '.join(VARIANTS)}")  # fmt: skip
    parser.add_argument("--minutes", type=float, help="training time of each variant that needs weights of its own")
    parser.add_argument("--steps", type=int, help="updates of each; with --minutes, whichever ends first")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", choices=scenes.TASKS, default=list(TASKS))
    parser.add_argument("--cases", type=int, default=5, help="of each task, at most")
    parser.add_argument("--edge", type=int, default=512, help="pixels square in the middle of each case")
    parser.add_argument("--threads", type=int, default=0, help="0 = torch's default")
    parser.add_argument("--device", default="cpu", help=HELP)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
