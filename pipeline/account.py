"""Account: what one run did, put together from what the store keeps of it; what exports tell in their own words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pipeline.blend import RESTORED
from pipeline.errors import UsageError
from pipeline.files import Files
from pipeline.ledger import Ledger
from pipeline.plan import Plan
from pipeline.planfile import plan_path, read_plan
from pipeline.store import read_attrs

Json = dict[str, Any]
EDGE = 1 << 20  # bytes of a log in which its run's begin, or end, is looked for


def account(out: str, run: str = "") -> Json:
    """Everything that is known of a run: config, environment, begin and end, plan, records. `run` empty: the last one.

    `records` are those in force that this run made. Raises UsageError for a run that the store does not know.
    """
    runs = Files(out) / "zmend/runs"
    known = sorted(runs.names() or ())
    read_attrs(out)  # says so where there is no store
    if not known or (run and run not in known):
        raise UsageError(
            f"there is no run '{run}' in this store" if run else "no run has begun in this store",
            where=out,
            do=f"name one of {', '.join(known[-3:])}" if known else "run one: zmend run zmend.yaml",
        )
    name = run or known[-1]
    files = runs / name
    records = [r for _, r in Ledger(out).records() if r is not None and r["run"] == name]
    log = events(files)
    plan = _plan(out, records)
    return {
        "run": name,
        "output": Files(out).uri,
        "config": json.loads(files.read("config.json") or b"{}"),
        "environment": json.loads(files.read("environment.json") or b"{}"),
        "began": _iso(log[0]["time"]) if log else "",
        "ended": _iso(log[-1]["time"]) if log else "",
        "finished": bool(log) and log[-1].get("kind") == "end",
        "plan": plan.header | {"hash": plan.hash},
        "records": records,
        "voxels_restored": sum(r["voxels"].get(str(v), 0) for r in records for v in RESTORED),
        "status": dict(Counter(r["status"] for r in records)),
    }


def events(files: Files, about: str = "") -> list[Json]:
    """The events of a run in order, from its folder; on object stores they lie in parts. One cut short by a kill is
    left out. about: only those that have these words in them, as a slab's id; of a million the others are not parsed.
    """
    parts = [n for n in files.names() or () if n.startswith("log.") and n.endswith(".jsonl")]
    lines = [line for part in sorted(parts) for line in (files.read(part) or b"").splitlines()]
    return _parsed(lines, about)


def _parsed(lines: Iterable[bytes], about: str) -> list[Json]:
    words = about.encode()
    return [json.loads(line) for line in lines if words in line and line.startswith(b"{") and line.endswith(b"}")]


def foreseen(out: str) -> Json | None:
    """What the last run that did any slab was foreseen to take, and took: {run, wall_s, low_s, high_s, took_s}, in
    seconds. None where nothing was measured beforehand, or nothing done; `took_s` is null where it has not ended."""
    runs = Files(out) / "zmend/runs"
    for name in sorted(runs.names() or (), reverse=True):
        began = _edge(runs / name, "begin")
        if began is not None and began.get("todo") and "forecast" in began:
            ended = _edge(runs / name, "end", last=True)
            said, took_s = began["forecast"], ended and ended["seconds"]
            known = {k: said[k] for k in ("wall_s", "low_s", "high_s", "worker_hours")}
            return {"run": name, **known, "took_s": took_s} if known["wall_s"] is not None else None
    return None


def _edge(files: Files, kind: str, *, last: bool = False) -> Json | None:
    """The event of a kind near the beginning of a run's log, or near its end: in between a million slabs are told."""
    parts = sorted(n for n in files.names() or () if n.startswith("log.") and n.endswith(".jsonl"))
    if not parts:
        return None
    start = max(0, stored.size - EDGE) if last and (stored := files.stat(parts[-1])) else 0
    raw = files.read(parts[-1], start) if last else files.read(parts[0], 0, EDGE)
    found = [e for e in _parsed((raw or b"").splitlines(), f'"kind": "{kind}"') if e["kind"] == kind]
    return found[-1 if last else 0] if found else None


def _iso(time: str) -> str:
    """ISO 8601 as XML Schema has it: the log's offset lacks its colon."""
    return datetime.fromisoformat(time).isoformat()


def _plan(out: str, records: list[Json]) -> Plan:
    """The plan that the run's records name; the one in force where it made none."""
    head = read_attrs(out)["zmend"].get("head", "")
    return read_plan(plan_path(out, records[-1]["plan"] if records else head), slabs=False)


def documents(found: Json) -> dict[str, str]:
    """What the store holds of a run, for copies: a file's name in an export, and its key in the store."""
    plan, run = found["plan"], f"zmend/runs/{found['run']}"
    return {
        "config.json": f"{run}/config.json",
        "environment.json": f"{run}/environment.json",
        "plan.json": f"zmend/plans/{plan['hash']}.json",
        "flags.csv": f"zmend/flags/{plan['flags']['digest']}.csv",
    }
