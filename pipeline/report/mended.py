"""Mended: the page of a store: what was asked for, what came of it, and every defect to look at, the worst first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from pipeline import certificate
from pipeline.blend import LEFT, RESTORED, UNCERTAIN
from pipeline.errors import VolumeError
from pipeline.files import Files
from pipeline.flags import Flag
from pipeline.job import read_flags
from pipeline.ledger import Ledger
from pipeline.plan import Plan
from pipeline.planfile import current_plan
from pipeline.report import charts, history
from pipeline.report.cards import Drawn, Painter, card
from pipeline.report.defects import DONE, QUARANTINED, Defect, Tally, defects, sections
from pipeline.report.page import check_target, file_name, number, render, short, write
from pipeline.report.pictures import Purse
from pipeline.report.window import Store
from pipeline.store import LABELS, OVERLAY, UNCERTAINTY, has_uncertainty
from pipeline.volume import Volume

PICTURED = 200  # defects with pictures; the others are a row of the table
EDGES = ((40, 448), (100, 320), (PICTURED, 256))  # (up to so many defects, px of a picture)
PICTURE_BYTES, ONE_BYTES = 17_000_000, 450_000  # of all pictures, as text, and of one defect's
ROWS = 5000  # of the table
JUDGED = 30_000  # rows of verdicts, one a defect and slab, that a page holds
HEADER = ("defect", "slab", "z0", "z1", "y0", "y1", "x0", "x1")  # of verdicts; then verdict, note, plan

Json = dict[str, Any]


def report(out: str, to: str) -> Json:
    """Write the page of a store to the file `to`; returns what is in it. Reads the store and its source; needs neither
    weights nor a restorer.

    Raises UsageError where `to` is something else, VolumeError and PlanChangedError where the store cannot be read.
    """
    began = time.perf_counter()
    plan = current_plan(out)
    store = _open(out, plan)
    check_target(to, Files(out), store.source.root)
    tally = Tally.of(plan, Ledger(out))
    found = defects(read_flags(out, plan, store.source.shape), plan, tally)
    drawn = sorted(_drawn(found, plan, store, out), key=lambda d: d.worry, reverse=True)
    document = _document(out, plan, tally, found, drawn)
    size = write(to, render("mended.html", document))
    return {
        "report": str(to), "defects": len(found), "pictured": len(drawn), "bytes": size,
        "seconds": round(time.perf_counter() - began, 2),
    }  # fmt: skip


def _open(out: str, plan: Plan) -> Store:
    """The arrays to look at, opened to read."""
    about = plan.header["source"]
    voxel_nm = tuple(about["voxel_nm"]) if about["voxel_nm"] else None
    return Store(
        Volume.open(about["uri"], level=about["level"], voxel_nm=voxel_nm),
        Volume.open(f"{out}/{OVERLAY}"),
        Volume.open(f"{out}/{LABELS}/0"),
        Volume.open(f"{out}/{UNCERTAINTY}") if has_uncertainty(out) else None,
    )


def _drawn(found: list[Defect], plan: Plan, store: Store, out: str) -> Iterator[Drawn]:
    """The most worrying defects with their pictures, until there are enough or the page is full."""
    shown = found[:PICTURED]
    edge = next((px for most, px in EDGES if len(shown) <= most), EDGES[-1][1])
    painter = Painter(store, plan, edge, Purse(PICTURE_BYTES), min(ONE_BYTES, PICTURE_BYTES // max(1, len(shown))))
    ledger = Ledger(out)
    for defect in shown:
        drawn = painter.draw(defect, ledger)
        if drawn is None:
            return
        yield drawn


def _document(out: str, plan: Plan, tally: Tally, found: list[Defect], drawn: list[Drawn]) -> Json:
    name = Files(out).uri.rpartition("/")[2]
    runs, how_many = history.runs(out)
    last = next((run for run in runs if run.landed), None)
    ordered = [d.defect for d in drawn] + [d for d in found if d.number not in {x.defect.number for x in drawn}]
    items = _items(ordered, plan)
    return {
        "title": name,
        "sentence": _sentence(plan, tally),
        "stats": _stats(tally, found, last),
        "left": tally.reasons(),
        "order": _order(len(found), len(drawn), len(items)),
        "rows": [_row(d, {x.defect.number: x for x in drawn}, items) for d in ordered[:ROWS]],
        "cards": [card(d, judged=str(d.defect.number) in items) for d in drawn],
        "certificate": _certificate(out),
        "compared": _compared(plan, tally, last),
        "runs": [_run(run) for run in runs],
        "more_runs": how_many - len(runs),
        "timeline": charts.timeline(last) if last else "",
        "stages": charts.stages(last) if last else "",
        "words": last.words if last else [],
        "provenance": _provenance(out, plan),
        "version": metadata.version("zmend"),
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "data": {
            "what": "verdicts", "file": f"{file_name(name)}.verdicts.csv", "table": f"{file_name(name)}.defects.csv",
            "plan": plan.hash, "before": "", "header": HEADER, "tail": ["verdict", "note", "plan"],
            "items": items, "rest": _shared(ordered[len(items):], items, plan), "verdicts": {},
        },
    }  # fmt: skip


def _items(ordered: list[Defect], plan: Plan) -> dict[str, list[list[Any]]]:
    """The rows of a file of verdicts, by defect, of as many defects as the page holds."""
    items: dict[str, list[list[Any]]] = {}
    room = JUDGED
    for defect in ordered:
        room -= len(defect.rows)
        if room < 0:
            break
        items[str(defect.number)] = _lines(defect, plan)
    return items


def _shared(rest: list[Defect], items: dict[str, list[list[Any]]], plan: Plan) -> list[list[Any]]:
    """The rows of other defects in slabs that can be judged: without a verdict they keep such a slab from being
    accepted as a whole."""
    judged = {line[1] for lines in items.values() for line in lines}
    return [line for defect in rest for line in _lines(defect, plan) if line[1] in judged]


def _lines(defect: Defect, plan: Plan) -> list[list[Any]]:
    """One a slab: what HEADER names."""
    return [
        [defect.number, slab.id, *(v for pair in zip(part.start, part.stop, strict=True) for v in pair)]
        for slab, part in defect.slabs(plan)
    ]


def _sentence(plan: Plan, tally: Tally) -> str:
    done, bad = int((tally.status == DONE).sum()), int((tally.status == QUARANTINED).sum())
    parts = [f"{number(done + bad)} of {number(len(plan.slabs))} slabs are done"]
    parts += [f"{number(bad)} of them quarantined"] * bool(bad)
    parts += [f"{number(tally.spoiled)} records cannot be trusted"] * bool(tally.spoiled)
    made, left = tally.count(*RESTORED), tally.count(LEFT)
    parts += [f"{number(made)} voxels restored", f"{number(left) if left else 'none'} left as they were"]
    return ", ".join(parts) + "."


def _stats(tally: Tally, found: list[Defect], last: history.Run | None) -> list[tuple[str, str]]:
    made, doubt = tally.count(*RESTORED), tally.count(UNCERTAIN)
    stats = [(number(len(found)), "defects"), (_amount(made), "voxels restored")]
    stats += [(f"{doubt / max(1, made):.1%}", "of them uncertain")] if doubt else []
    stats += [(_amount(tally.count(LEFT)), "voxels left")]
    if last:
        hours = tally.seconds.sum() / 3600
        stats += [(_hours(hours), f"{last.device} worker time"), (_pace(last), "Mvoxels/s, last run")]
    return stats


def _amount(voxels: int) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if voxels >= size:
            return f"{voxels / size:.3g} {unit}"
    return number(voxels)


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.1f} s"


def _pace(run: history.Run) -> str:
    return short(run.voxels / max(run.seconds, 1.0) / 1e6, 3)


def _order(found: int, drawn: int, judged: int) -> str:
    text = (
        "What is not done comes first, then what was left as it was, what the ensemble disagrees on, what is less like "
        "its neighbours than intact sections are, and steps at the rim."
    )
    if drawn < found:
        text += f" {drawn} of {number(found)} have pictures, the worst by their records; the rest is a table."
    if found > ROWS:
        text += f" The first {number(ROWS)} are listed."
    if judged < found:
        text += f" {number(judged)} can be judged here: more slabs than a page holds."
    return text


def _row(defect: Defect, drawn: dict[int, Drawn], items: Json) -> Json:
    with_pictures = drawn.get(defect.number)
    scores = with_pictures.scores if with_pictures else None
    return {
        "id": defect.number,
        "card": with_pictures is not None,
        "judged": str(defect.number) in items,
        "class": defect.flag.kind,
        "sections": sections([(defect.flag.box.start[0], defect.flag.box.stop[0])]),
        "where": place(defect.flag),
        "made": defect.made,
        "left": defect.left,
        "uncertain": f"{defect.uncertain / defect.made:.0%}" if defect.made else "–",
        "ncc": scores and scores.ncc,
        "ncc_intact": scores and scores.ncc_intact,
        "seam": scores and scores.seam,
    }


def place(flag: Flag) -> str:
    """Where in its sections a flag lies."""
    (_, y0, x0), (_, y1, x1) = flag.box.start, flag.box.stop
    box = "all of it" if flag.whole else f"{y0}:{y1}, {x0}:{x1}"
    return box if not flag.mask else "a mask" if flag.whole else f"a mask in {box}"


def _certificate(out: str) -> Json:
    try:
        said = certificate.read(out)
    except VolumeError as error:
        return {"sentence": f"{error.what}: {error.why}", "chart": ""}
    if said is None:
        return {"sentence": "This store has none: the run was asked for none, or has not ended.", "chart": ""}
    text = certificate.sentence(said)
    if said["status"] != "measured":
        return {"sentence": text, "chart": ""}
    keys = ("ncc", "ssim", "power")
    ours, theirs = ([said[who][k] for k in keys] for who in ("restored", "linear"))
    return {"sentence": text[0].upper() + text[1:] + ".", "chart": charts.pairs(ours, theirs, ["NCC", "SSIM", "power"])}


def _compared(plan: Plan, tally: Tally, last: history.Run | None) -> list[tuple[str, str, str]]:
    """What the plan said, beside what the records say."""
    sums = plan.header["totals"]
    done = int((tally.status > 0).sum())
    pace = _hours(sums["seconds"] / 3600) if sums.get("seconds") else "not known"
    return [
        ("slabs", number(sums["slabs"]), number(done)),
        ("voxels restored (planned: at most)", number(sums["voxels"]), number(tally.count(*RESTORED))),
        ("voxels left", "–", number(tally.count(LEFT))),
        ("MiB read", _mib(sums["bytes_to_read"]), _mib(tally.bytes_read)),
        ("MiB written (planned: before compression)", _mib(sums["bytes_to_write"]), _mib(tally.bytes_written)),
        ("time of one worker", pace, _hours(float(tally.seconds.sum()) / 3600)),
        *_foreseen(last),
    ]  # fmt: skip


def _foreseen(last: history.Run | None) -> list[tuple[str, str, str]]:
    """What the last run took on the wall, beside what was foreseen when it began, if that was measured."""
    said = last.forecast if last else {}
    if last is None or said.get("wall_s") is None:
        return []
    wall, low, high = (_hours(said[k] / 3600) for k in ("wall_s", "low_s", "high_s"))
    took = _hours(last.took / 3600) if last.finished else "not ended"
    return [("the last run, on the wall", f"{wall} ({low} to {high})", took)]


def _mib(count: float) -> str:
    return f"{count / 2**20:,.1f}"


def _run(run: history.Run) -> Json:
    return {
        "id": run.id,
        "began": time.strftime("%Y-%m-%d %H:%M", time.gmtime(run.began)) if run.began else "–",
        "slabs": len(run.landed),
        "failures": ", ".join(f"{n} {cause}" for cause, n in run.retries.items()) or "0",
        "minutes": short(run.seconds / 60, 1),
        "hours": short(run.hours, 3),
        "pace": _pace(run) if run.landed else "–",
        "ended": "yes" if run.finished else "no: stopped, or still at work",
    }


def _provenance(out: str, plan: Plan) -> list[tuple[str, str]]:
    header = plan.header
    source, restorer, recipe = header["source"], header["restorer"], header["recipe"]
    settings = ", ".join(f"{k} {v}" for k, v in recipe.items() if v not in (None, {}) and k != "restorer")
    return [
        ("store", Files(out).uri),
        ("source", f"{source['uri']}, level {source['level']}: {tuple(source['shape'])} {source['dtype']}"),
        ("voxel size", f"{source['voxel_nm']} nm (z, y, x)"),
        ("flags", f"{header['flags']['count']}, digest {header['flags']['digest']}"),
        ("plan", plan.hash),
        ("recipe", f"{settings}\ndigest {header['recipe_digest']}"),
        ("restorer", f"{restorer['name']}, weights and sampler {restorer['digest']}"),
    ]
