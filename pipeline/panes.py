"""Panes: what `zmend status` shows besides a table of numbers: one slab's story, and a run as it comes along."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from pipeline.show import flag_words, out, pairs, size, span

Json = dict[str, Any]
SHOWN = 12  # attempts and old records, the last; --json has all


def dossier(document: Json) -> None:
    """All that is known of one slab."""
    plan, record = document["plan"], document["record"]
    rows = {
        "slab": f"{document['slab']}, {plan['number']} of {plan['of']} in plan {plan['hash'][:12]}",
        "writes": span(document["write"]),
        "reads": span(document["read"]),
        "flags": "\n".join(f"{flag_words(f)}: {f['voxels']:,} voxels here" for f in document["flags"]) or "none",
        "state": document["state"] + (f": {record['quarantined']}" if record and record["quarantined"] else ""),
        "attempts": _some([_attempt(a) for a in document["attempts"]]) or "none yet",
    }
    if record:
        good = sum(c["as_written"] for c in document["chunks"])
        inputs = {True: "the same today", False: "NOT the same today", None: "cannot be read today"}
        merged = {True: "holds it", False: "does NOT hold it", None: "there is none, or it waits for a merge"}
        left = [f"z {p['z'][0]}:{p['z'][1]}, {p['voxels']:,} voxels: {p['why']}" for p in record["left"]]
        rows |= {k: str(record[k]) for k in ("run", "restorer", "weights", "recipe", "seed")}
        rows["voxels"] = ", ".join(f"{n:,} of label {label}" for label, n in record["voxels"].items() if n) or "none"
        rows |= {"left as they were": "\n".join(left)} if left else {}
        rows["moved"] = f"{size(record['bytes_read'])} read, {size(record['bytes_written'])} written"
        rows["inputs"] = f"{record['inputs_sha256']}, {inputs[document['inputs_match']]}"
        rows["chunks"] = f"{good} of {len(document['chunks'])} as they were written"
        rows["merged volume"] = merged[document["merged"]]
    if order := document["verdict"]:
        why = order["rejected"] or "nobody wrote why"
        rows["verdict"] = f"rejected, now at attempt {order['attempt']} after the first: {why}"
    rows["before"] = _some([_before(r) for r in document["history"]]) or "nothing was in force here"
    rows["doubts"] = "\n".join(document["doubts"]) or "none"
    pairs(rows)


def _some(lines: list[str]) -> str:
    more = len(lines) - SHOWN
    return "\n".join([*([f"… {more} earlier"] if more > 0 else []), *lines[-SHOWN:]])


def _attempt(event: Json) -> str:
    at = f"{event['time'][:19]} run {event['run']}"
    on = f" on {event['worker']}" if event.get("worker") else ""
    if event["kind"] == "slab":
        return f"{at}: {event['status']}{on}, {sum(event['seconds']):.1f} s"
    if event["kind"] == "straggler":
        return f"{at}: late, a copy was begun{on}"
    then = "tried again" if event["again"] else "given up"
    return f"{at}: attempt {event['attempt']} failed{on} ({event['cause']}), {then}: {event['error'].splitlines()[0]}"


def _before(record: Json) -> str:
    if "doubt" in record:
        return f"slab {record['slab']}: {record['doubt']}"
    what = f"{record['slab'][:12]} by run {record['run']}, seed {record['seed']}, {record['status']}"
    why = f" ({record['rejected']})" if record.get("rejected") else ""
    return f"{what}{why}; out of force by run {record['retired_by']}, {record['why']}"


class Watched:
    """A run on a terminal: a pane that changes; elsewhere a line for each change; or JSON, line by line."""

    def __init__(self, as_json: bool) -> None:
        self._json, self._told = as_json, ""
        self._live = Live(console=out, auto_refresh=False) if out.is_terminal and not as_json else None

    def __enter__(self) -> Watched:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, document: Json) -> None:
        if self._live is not None:
            self._live.update(_pane(document), refresh=True)
            return
        text = json.dumps(document) if self._json else line(document)
        if text != self._told:
            print(text, flush=True)
        self._told = text


def line(document: Json) -> str:
    """A run in one line."""
    if not document["run"]:
        return "no run has begun in this store"
    parts = [f"run {document['run']}: {_phase(document)}", f"{document['done']} of {document['slabs']} slabs"]
    parts += [f"{document['quarantined']} quarantined"] if document["quarantined"] else []
    return ", ".join([*parts, *_numbers(document).values()])


def _numbers(document: Json) -> dict[str, str]:
    pace, left, share = document["slabs_per_second"], document["seconds_left"], document["restorer_share"]
    found = {} if pace is None else {"pace": f"{pace:g} slabs/s"}
    found |= {"left": f"{left} s left"} if left else {}
    found |= {"restorers": f"restorers busy {share:.0%}"} if share is not None else {}
    return found | ({"failures": f"{document['failures']} failed attempts"} if document["failures"] else {})


def _phase(document: Json) -> str:
    phase, of = document["phase"], document["steps"]
    if not document["live"]:
        return "ended" if phase == "ended" else f"nobody is at work ({phase}); zmend run goes on with it"
    return f"{phase} {document['steps_done']}/{of}" if of and phase in ("certificate", "merge") else phase


def _pane(document: Json) -> Table:
    pane = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=document["slabs"] or 1, completed=document["done"], width=40)
    pane.add_row(f"run {document['run']}", bar, f"{document['done']}/{document['slabs']} slabs")
    pane.add_row("phase", escape(_phase(document)), f"{document['workers']} workers seen")
    for name, words in _numbers(document).items():
        pane.add_row(name, words)
    if document["quarantined"]:
        pane.add_row("quarantined", f"[yellow]{document['quarantined']}[/]")
    return pane
