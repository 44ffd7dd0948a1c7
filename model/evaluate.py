"""Evaluation on held-out real sections, always beside the simple methods and the real section itself.

    zmend evaluate --data DATA --weights default --out OUT
    zmend evaluate --data DATA --out OUT --tasks all --ensemble 8 --curve --halo --peers PEERS
    zmend evaluate --data DATA --out OUT --tasks none --halo

The tasks are those of `scenes`. Every method gets the same cases, in which nothing of the truth is left, and is scored
on the voxels to restore alone. Nothing is fitted on test sections: the membrane classifier learned from real training
sections; sampler settings are chosen on validation rows (`--curve`; what else was looked at: DESIGN.md). Writes
metrics.json, metrics.md and pictures.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import calibration, figures, metrics, probes, report, scenes, segmentation, tally
from model.baselines import baselines, constant, ours
from model.checkpoint import load_network, locate, read_card, sampler_of
from model.device import HELP, resolve, use_threads
from model.network import AnisoUNet3D
from model.sampler import Sampler, ensemble
from model.scenes import Case, Floats, Image, Method
from model.spread import spread

log = logging.getLogger("model.evaluate")

REAL, LABELS, SAMPLE, MEAN = "real section", "human profiles, nearest section", "ours", "ours (posterior mean)"
_QUICK = (2, 256)  # cases a task, pixels
_MEMBER = 1000  # added to the seed for the first member of an ensemble


@dataclass(slots=True)
class Board:
    """What the methods made of a task's cases so far."""

    rows: dict[str, list[dict[str, float]]] = field(default_factory=dict)  # method -> a row a restored section
    sums: dict[str, list[tally.Array]] = field(default_factory=dict)  # method -> tally.tally of each
    wrong: dict[str, list[bool]] = field(default_factory=dict)  # method -> is this profile's link wrong
    seconds: dict[str, list[float]] = field(default_factory=dict)  # method -> of each case
    names: list[str] = field(default_factory=list)  # of the restored sections
    images: dict[str, Floats] = field(default_factory=dict)  # of the first case


def compare(cases: Sequence[Case], methods: Mapping[str, Method], classifier: metrics.MembraneClassifier) -> Board:
    """Every method on every case. A method is given a case without its answer."""
    board = Board()
    for case in cases:
        base, blind = case.complete(constant(case)), case.withheld()
        made: dict[str, Floats] = {REAL: case.truth}
        for name, method in methods.items():
            start = time.perf_counter()
            made[name] = case.complete(method(blind))
            board.seconds.setdefault(name, []).append(time.perf_counter() - start)
        for name, planes in made.items():
            scores = None if case.membranes is None else np.stack([classifier.score(p) for p in planes])
            for j, plane in enumerate(planes):
                score = None if scores is None else scores[j]
                _enter(board, name, case, j, plane, base[j], score, classifier.threshold)
            if scores is not None and _linkable(case):
                links = segmentation.links_through(case.beside[0], case.beside[1], scores, classifier.threshold)  # type: ignore[index]
                _judge(board, name, case, links)
        _label_rows(board, case)
        board.names += [case.name + (f", {j + 1} of {case.gap}" if case.gap > 1 else "") for j in range(case.gap)]
        board.images = board.images or made
        log.info("%s done", case.name)
    return board


def _enter(board: Board, name: str, case: Case, j: int, image: Image, base: Image, score: Image | None,
           threshold: float) -> None:  # fmt: skip
    """One row: restored section j of a case by one method, known voxels in place."""
    truth, where = case.truth[j], case.unknown[j]
    found = None if score is None else np.asarray(score > threshold)
    drawn = None if case.membranes is None else case.membranes[j]
    sums = tally.tally(truth, image, base, where, drawn, found)
    row = tally.row(sums)
    row["step"] = metrics.brightness_step(image, case.pair, where)
    row["frc_cutoff"] = metrics.frc_cutoff(truth, image) if where.all() else float("nan")
    row["seam"] = metrics.seam(truth, image, where)
    if score is not None and case.labels is not None:
        depths = segmentation.DEPTHS if where.all() else (segmentation.DEPTH,)
        for depth in depths:
            found_here = segmentation.agreement(case.labels[j], segmentation.segments(score, depth), where)
            row |= {f"{c}@{depth:g}": v for c, v in found_here.items()}
        row |= found_here  # the last is the depth that suits real sections
    board.rows.setdefault(name, []).append(row)
    board.sums.setdefault(name, []).append(sums)


def _linkable(case: Case) -> bool:
    """Links are asked for where whole sections are missing and people have drawn all sections concerned."""
    return case.beside is not None and case.labels is not None and bool(case.unknown.all())


def _judge(board: Board, name: str, case: Case, links: Any) -> None:
    assert case.beside is not None and case.labels is not None
    true = segmentation.true_links(case.beside[0], case.labels, case.beside[1])
    board.wrong.setdefault(name, []).extend(segmentation.wrong_links(links, true, case.beside[0]).tolist())


def _label_rows(board: Board, case: Case) -> None:
    """What human labels of the neighbours alone would say: profiles copied, links by direct overlap."""
    if case.beside is None or case.labels is None:
        return
    for j, t in enumerate(case.places):
        nearest = segmentation.filled(case.beside[0 if t <= 0.5 else 1])
        row = segmentation.agreement(case.labels[j], nearest, case.unknown[j])
        board.rows.setdefault(LABELS, []).append(row)
    if _linkable(case):
        _judge(board, LABELS, case, segmentation.direct_links(case.beside[0], case.beside[1]))


def result(task: str, title: str, board: Board, found: Mapping[str, Any] | None = None) -> report.Result:
    """Means over the restored sections and their intervals."""
    mean: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, report.Interval | None]] = {}
    to_flow: dict[str, dict[str, report.Interval | None]] = {}
    for name, rows in board.rows.items():
        mean[name] = {c: float(np.mean([r[c] for r in rows])) for c in rows[0]}
        sums, wrong = board.sums.get(name, []), board.wrong.get(name, [])
        local = tally.LOCAL if sums else {}
        others = [c for c in rows[0] if c not in local]
        intervals[name] = {c: tally.interval(c, sums) for c in local}
        intervals[name] |= {c: tally.spread([r[c] for r in rows]) for c in others}
        if wrong:
            mean[name]["links_wrong"] = 100 * float(np.mean(wrong))
            intervals[name]["links_wrong"] = tally.spread([100.0 * w for w in wrong])
        for column in ("voi", "arand"):
            each = [v for c, v in mean[name].items() if c.startswith(f"{column}@")]
            mean[name] |= {f"{column}_best": min(each)} if len(each) > 1 else {}
        if name in board.seconds:
            mean[name]["seconds"] = float(np.mean(board.seconds[name]))
        if sums and name not in (REAL, "constant", "flow") and "flow" in board.sums:
            to_flow[name] = {c: tally.interval(c, sums, board.sums["flow"]) for c in local}
            apart = [a["frc_cutoff"] - b["frc_cutoff"] for a, b in zip(rows, board.rows["flow"], strict=True)]
            to_flow[name]["frc_cutoff"] = tally.spread(apart)
    sections = [{"section": s, **{n: rows[i] for n, rows in board.rows.items()}} for i, s in enumerate(board.names)]
    return report.Result(task, title, mean, intervals, to_flow, sections, dict(found or {}))


class Ensemble:
    """The mean of several draws as a method, keeping what they say of their own certainty."""

    def __init__(self, network: AnisoUNet3D, sampler: Sampler, seed: int, members: int, scale: float = 1.0) -> None:
        self._methods = [ours(network, ensemble(sampler), seed + _MEMBER + i) for i in range(members)]
        self._scale = scale  # the card's spread_scale
        self.drawn: dict[str, Floats] = {}  # case name -> (k, K, H, W)

    def __call__(self, case: Case) -> Floats:
        members = np.stack([method(case) for method in self._methods])
        self.drawn[case.name] = members
        return np.asarray(members.mean(0), np.float32)

    def spread(self, case: Case) -> Floats:
        """What a run would store beside the restored voxels: (K, H, W)."""
        return np.asarray(self._scale * spread(self.drawn[case.name], case.unknown), np.float32)

    def calibration(self, cases: Sequence[Case]) -> dict[str, Any]:
        """Over the cases, and of each; then how far the stored spread can be trusted."""
        each = {c.name: calibration.calibration(c.truth, self.drawn[c.name], c.unknown) for c in cases}
        stored = [
            calibration.reliability(c.truth, self.drawn[c.name].mean(0), self.spread(c), c.unknown) for c in cases
        ]
        return {"calibration": calibration.joined(list(each.values())).to_dict(),
                "stored spread": calibration.joined_reliability(stored).to_dict(),
                "sections": {name: found.to_dict() for name, found in each.items()}}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0 when the tables are written."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    _check(options)
    use_threads(options.threads)
    device = resolve(options.device)
    path = locate(options.weights)
    card = read_card(path)
    network, sampler = load_network(path, card).to(device), sampler_of(card)
    methods = {**baselines(), **_peers(options.peers)}
    classifier = cache(lambda: metrics.MembraneClassifier.fit(*scenes.training_sections(options.data)))
    methods[SAMPLE] = ours(network, sampler, options.seed)
    methods[MEAN] = ours(network, replace(sampler, steps=1), options.seed)
    weights = {"name": card.name, "sha256": card.sha256, "sampler": asdict(sampler)}
    given = sys.argv[1:] if argv is None else argv
    record = report.provenance(given, weights, options.seed, torch.get_num_threads())
    record |= {"device": device, "quick": options.quick, "tasks": {}}
    texts: list[str] = []
    options.out.mkdir(parents=True, exist_ok=True)
    for task in _tasks(options):
        spreading = _ensemble(options, network, sampler, card.spread_scale)
        found = _task(task, options, f"weights {card.name} {card.sha256[:12]}", methods, spreading, classifier())
        record["tasks"][task] = found.to_dict()
        _publish(options.out, record, texts, report.markdown(found))
    if options.curve:
        _publish(options.out, record, texts, probes.curve(options, network, sampler, classifier(), record))
    if options.halo:
        _publish(options.out, record, texts, probes.halo(options, card, record))
    print(report.LEGEND)
    if options.update_card:
        replace(card, metrics=report.plain(_for_card(record))).write(path.with_suffix(".json"))
    return 0


def _check(options: argparse.Namespace) -> None:
    """What can be told without the data. Raises ValueError."""
    if options.ensemble < 0 or options.ensemble == 1:
        raise ValueError(f"--ensemble {options.ensemble} has no spread: draw 2 or more (8 is a good number), or 0")
    if options.seed < 0:
        raise ValueError(f"--seed {options.seed} must be 0 or more")
    if not _tasks(options) and (options.update_card or not (options.curve or options.halo)):
        raise ValueError("--tasks none measures nothing: add --halo or --curve, and leave --update-card out")
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file: name a folder, which may be new")
    scenes.check(options.data, _tasks(options))


def _ensemble(options: argparse.Namespace, network: AnisoUNet3D, sampler: Sampler, scale: float) -> Ensemble | None:
    return Ensemble(network, sampler, options.seed, options.ensemble, scale) if options.ensemble else None


def _tasks(options: argparse.Namespace) -> Sequence[str]:
    return scenes.TASKS if "all" in options.tasks else [t for t in options.tasks if t != "none"]


def _task(task: str, options: argparse.Namespace, weights: str, methods: Mapping[str, Method],
          spreading: Ensemble | None, classifier: metrics.MembraneClassifier) -> report.Result:  # fmt: skip
    """One task from cases to numbers and picture."""
    cases = scenes.load(options.data, task)
    cases = scenes.limit(cases, *_QUICK) if options.quick else cases
    extra = {f"ours (mean of {options.ensemble})": spreading} if spreading else {}
    board = compare(cases, {**methods, **extra}, classifier)
    shown = {n: i for n, i in board.images.items() if n != REAL}
    figures.pictures(options.out / f"{task}.png", cases[0], shown, spreading.spread(cases[0]) if spreading else None)
    found = spreading.calibration(cases) if spreading else None
    if found:
        stored = found["stored spread"]
        figures.calibration(options.out / f"{task}-calibration.png", found["calibration"]["ranks"],
                            stored["spread_of_tenths"], stored["error_of_tenths"])  # fmt: skip
    title = f"{len(cases)} cases of {cases[0].gap} section(s), {weights}"
    return result(task, title + (", QUICK: not to be quoted" if options.quick else ""), board, found)


def _publish(out: Path, record: Mapping[str, Any], texts: list[str], text: str) -> None:
    """Write everything known so far, after every step: hours of work must survive an interruption."""
    texts.append(text)
    (out / "metrics.json").write_text(json.dumps(report.plain(record), indent=1) + "\n")
    (out / "metrics.md").write_text("\n".join([*texts, report.LEGEND]) + "\n")
    print(text, flush=True)


def _for_card(record: Mapping[str, Any]) -> dict[str, Any]:
    """The means of every task; title and mean of the first one on top, where readers of older cards look."""
    tasks = {name: {"title": t["title"], "mean": t["mean"]} for name, t in record["tasks"].items()}
    first = next(iter(tasks.values()))
    return {"title": first["title"], "mean": first["mean"], "tasks": tasks, "date": record["date"]}


def _peers(folder: Path | None) -> dict[str, Method]:
    """Learned peers, where a folder of them is given."""
    if folder is None:
        return {}
    from model.peers import load

    return dict(load(folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "zmend evaluate",
        description="Compare the restorer with simple and learned methods on real sections."
        "\n\nzmend evaluate --data stacks --tasks vnc1 --out evaluation",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of manifest.json and the npz files it names (vnc_stack1, ...)")
    add("--weights", default="default", help="shipped name or path of a .safetensors file")
    add("--out", type=Path, default=Path(".train/eval"), help="folder for metrics.json, metrics.md and pictures")
    add("--tasks", nargs="+", default=["vnc1"], choices=(*scenes.TASKS, "validation", "all", "none"),
        metavar="TASK", help=f"{', '.join(scenes.TASKS)}, validation; all: every one but that; none")  # fmt: skip
    add("--ensemble", type=int, default=0, metavar="K", help="draw K samples a case and measure their calibration")
    add("--curve", action="store_true", help="membrane F1 against power over sampler settings, on validation rows")
    add("--halo", action="store_true", help="how much tiles of 256 px differ from the whole section, by halo")
    add("--peers", type=Path, help="folder of learned peers to stand beside")
    add("--seed", type=int, default=0, help="of our restorer's noise")
    add("--threads", type=int, default=0, help="0 = torch's default")
    add("--device", default="auto", help=f"of our restorer: {HELP}")
    add("--quick", action="store_true", help="two cases a task, 256 px of each: to try it, not to quote it")
    add("--update-card", action="store_true", help="write the means into the weights' card")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
