"""Page: what one night did, on one page of Markdown that people read over coffee. A document in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

MOST = 12  # lines of a list; the flags file, the store and the log have all

Json = dict[str, Any]


def page(told: Json) -> str:
    """The page of a cycle; parts that it did not come to are left out."""
    parts = [_head(told)]
    makers = {"scan": _found, "explain": _planned, "run": _done, "verify": _verified, "error": _failed}
    parts += [make(told[key]) for key, make in makers.items() if told.get(key)]
    return "\n".join(parts)


def headline(told: Json) -> str:
    """The night in a few words."""
    error, run = told.get("error"), told.get("run")
    if error:
        return f"{'interrupted' if error['code'] == 75 else 'failed'}: {error['what']}"
    if run and run["quarantined"]:
        return f"done, {run['quarantined']} slabs quarantined"
    return "done" if told["explain"]["todo"] or told["new"] else "nothing new"


def _head(told: Json) -> str:
    new = f", {told['new']} of them new" if told.get("new") else ""
    sections = f": {told['sections']} sections{new}" if told.get("sections") else ""
    return (
        f"# zmend nightly: {headline(told)}\n\n"
        f"{told['began']} to {told['ended']}, zmend {told['version']}, on {told['host']}  \n"
        f"{told['volume']}{sections}  \n"
        f"-> {told['output']}\n"
    )


def _found(scan: Json) -> str:
    sections = f"{scan['looked_at']} of {scan['sections']} sections"
    lines = [
        "## Found\n",
        f"Looked at {sections}: {scan['added']} flags new, {scan['gone']} gone. "
        f"{scan['flags']} is yours to edit.\n",
    ]
    lines += _list(f"section {r['z_start']}, {r['class']}, {_where(r)}: {r['note']}" for r in scan["new"])
    if scan["held"]:
        lines.append(f"Something else is found now in {_some(scan['held'])}: left as you have changed it.\n")
    jumps = (f"the stack lies elsewhere from section {m['section']} on, {m['far']}: align it" for m in scan["moves"])
    lines += _list(jumps)
    return "\n".join(lines)


def _where(row: Json) -> str:
    if row.get("y_start") in (None, ""):
        return "all of it"
    return f"y {row['y_start']}:{row['y_stop']}, x {row['x_start']}:{row['x_stop']}"


def _planned(explain: Json) -> str:
    counts = ", ".join(f"{n} {why}" for why, n in explain["counts"].items()) or "none"
    lines = ["## Planned\n", f"{explain['slabs']} slabs: {counts}.\n"]
    lines += _list(f"section {z0}:{z1} taken back" for z0, z1 in explain["taken_back"])
    return "\n".join(lines)


def _done(run: Json) -> str:
    lines = [
        "## Done\n",
        f"{run['done']} of {run['slabs']} slabs are done, {run['quarantined']} quarantined; "
        f"{run['voxels_restored']:,} voxels restored in all, {run['voxels_uncertain']:,} of them not to be trusted. "
        f"Run {run['run']}, {run['seconds']:.0f} s.\n",
    ]
    if run["not_restorable"]:
        lines.append("Refused, left as they were:\n")
        lines += _list(f"section {e['z'][0]}:{e['z'][1]}: {e['why']}" for e in run["not_restorable"])
    return "\n".join(lines)


def _verified(verify: Json) -> str:
    if verify.get("skipped"):
        return f"## Verified\n\n{verify['skipped']}\n"
    lines = ["## Verified\n", f"{'ok' if verify['ok'] else 'NOT OK'}, level {verify['level']}.\n"]
    lines += _list(f"{c['name']}: {'ok' if c['ok'] else 'FAIL'}, {c['detail']}" for c in verify["checks"])
    lines += _list(finding for c in verify["checks"] for finding in c["findings"])
    return "\n".join(lines)


def _failed(error: Json) -> str:
    return f"## Not finished\n\n```\n{error['text']}\n```\n"


def _list(items: Iterable[str]) -> list[str]:
    found = list(items)
    more = [f"- and {len(found) - MOST} more"] if len(found) > MOST else []
    return [*(f"- {' '.join(item.split())}" for item in found[:MOST]), *more, *([""] if found else [])]


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:MOST])) + (" …" if len(numbers) > MOST else "")
