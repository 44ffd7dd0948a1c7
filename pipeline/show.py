"""Show: documents as people read them. The only room that knows rich; --json never comes through here."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from pipeline.certificate import sentence
from pipeline.thresholds import SCAN_NM

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
LOG_EVERY_S = 60.0
SHOWN_FLAGS = 40  # the file has all
SHOWN_SLABS = 10  # for each reason; --json has all

AT_HOME = ", in this process: it is a matter of seconds (else set site.workers)"
SPARED = ", in this process: {} would take longer to start than it to look"


class Progress:
    """A bar on a terminal; elsewhere, one line a minute and one for each thing that goes wrong."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.live, self.quiet = err.is_terminal and not quiet, quiet
        self.done = self.of = 0
        self.began = self.told = time.monotonic()
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            disable=not self.live,
            transient=True,
        )
        self.task = self.bar.add_task("slabs", total=None)

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "begin":
            self.of, self.done = event["slabs"], event["slabs"] - event["todo"]
            self._update("slabs")
            kept = f", {self.done} done before" if self.done else ""
            kept += f" ({event['kept']} read chunks that are new and hold what they held)" if event.get("kept") else ""
            home = AT_HOME if event.get("at_home") else SPARED.format(_workers(n)) if (n := event.get("spared")) else ""
            err.print(f"run {event['run']}: {event['slabs']} slabs{kept}{home}")
        elif kind == "slab":
            self.done += 1
            self._update("slabs")
            if event["status"] == "quarantined":
                err.print(f"[yellow]slab {event['slab']} quarantined[/]")
        elif kind == "failure":
            err.print(
                f"[yellow]slab {event['slab']}, attempt {event['attempt']}: {escape(event['error'].splitlines()[0])}[/]"
            )
        elif kind == "warning":
            err.print(f"[yellow]warning: {escape(event['text'])}[/]")
        elif kind in ("certificate", "merge"):
            self.done, self.of = event["done"], event["of"]
            self._update(kind)
        elif kind == "calibrate":
            self.done, self.of = event["done"], event["of"]
            if event["text"] and not self.quiet:
                err.print(f"measuring: {escape(event['text'])}")
            self._update("measured")

    def _update(self, what: str) -> None:
        self.bar.update(self.task, description=what, completed=self.done, total=self.of)
        if not self.live and time.monotonic() - self.told >= LOG_EVERY_S:
            self.told = time.monotonic()
            err.print(f"{time.strftime('%H:%M:%S')} {what} {self.done}/{self.of}, {self.told - self.began:.0f} s")


def _workers(n: int) -> str:
    return f"{n} workers" if n > 1 else "a worker"


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} PiB"


def plan(document: dict[str, Any]) -> None:
    """A plan, before anything is spent."""
    source, sums, restorer = document["source"], document["totals"], document["restorer"]
    table = Table(title=f"plan {document['plan'][:12]}", show_header=False, title_justify="left")
    table.add_row(
        "volume",
        f"{escape(source['uri'])}, level {source['level']}: {tuple(source['shape'])} {source['dtype']}, "
        f"voxel {source['voxel_nm']} nm",
    )
    table.add_row("flags", f"{document['flags']['count']} in {escape(document['flags']['path'])}")
    table.add_row(
        "restorer",
        f"{restorer['name']} ({restorer['digest'][:12]}), tile {restorer['tile']} px, halo {restorer['halo']} px, "
        f"gaps up to {restorer['max_gap']}, batch {restorer['batch']}",
    )
    table.add_row("slabs", f"{sums['slabs']}, of {document['slab_cell'][1]} × {document['slab_cell'][2]} px")
    table.add_row("voxels", f"{sums['voxels']:,} flagged at most (masks are counted as their boxes)")
    table.add_row(
        "bytes",
        f"read {size(sums['bytes_to_read'])}, write {size(sums['bytes_to_write'])}; merging moves "
        f"{size(sums['bytes_to_merge'])} (all before compression)",
    )
    table.add_row("memory", _memory(document["memory"]))
    table.add_row("time", document.get("time", "") or _time(document))
    if document.get("cost"):
        table.add_row("cost", costs(document["cost"]))
    table.add_row("not restorable", _refused(document["not_restorable"]))
    if document["file"]:
        table.add_row("plan file", escape(document["file"]))
    out.print(table)
    if "explain" in document:
        reasons(document["explain"])


def _memory(found: dict[str, int]) -> str:
    merging = f", {size(found['merge_bytes'])} to merge" if found["merge_bytes"] else ""
    return f"at most {size(found['restore_bytes'])} in a process that restores{merging}, besides its code"


def reasons(document: dict[str, Any]) -> None:
    """Why slabs would be done, or not: how many for each reason, then the first of those to do."""
    todo = [row for row in document["rows"] if row["why"] != "unchanged"]
    table = Table(title=f"{len(todo)} of {document['slabs']} slabs to do", title_justify="left")
    for column in ("reason", "slabs", "such as"):
        table.add_column(column)
    for why, count in document["counts"].items():
        some = [f"z {span(r['write'])}{', ' + r['detail'] if r['detail'] else ''}" for r in todo if r["why"] == why]
        table.add_row(why, str(count), escape("\n".join(some[:SHOWN_SLABS]) + "\n…" * (len(some) > SHOWN_SLABS)))
    out.print(table)
    if back := document["taken_back"]:
        places = ", ".join(f"{a}:{b}" for a, b in back[:SHOWN_FLAGS])
        out.print(f"taken back, the source's voxels come again: sections {places}{' …' * (len(back) > SHOWN_FLAGS)}")


def night(document: dict[str, Any]) -> None:
    """A cycle: its page."""
    with Path(document["page"]).open() as page:
        out.print(Markdown(page.read()), soft_wrap=False)  # else lists and errors are cut where the terminal ends
    out.print(f"this page: {escape(document['page'])}")


def span(write: list[Any]) -> str:
    """A box as people write it: half-open, z, y, x."""
    (z0, y0, x0), (z1, y1, x1) = write
    return f"{z0}:{z1}, {y0}:{y1}, {x0}:{x1}"


def _time(document: dict[str, Any]) -> str:
    seconds = document["totals"].get("seconds", 0)
    if not seconds:
        return "unknown: the restorer declares no pace"
    extra = document.get("certificate_seconds", 0)
    beside = f", and up to {extra:,.0f} s for the certificate" if extra else ""
    return f"about {seconds:,.0f} s of one worker{beside}, roughly: from the pace that the restorer declares"


def costs(found: dict[str, Any]) -> str:
    """What a job moves and takes, in a sentence, and how sure that is."""
    moves = f"as stored reads {size(found['bytes_read'])}, writes {size(found['bytes_written'])}"
    if found["merge_bytes_read"]:
        moves += f"; the merge reads {size(found['merge_bytes_read'])}, writes {size(found['merge_bytes_written'])}"
    if found["wall_s"] is None:
        return f"{moves}; hours and minutes are not known: {found['why']} (zmend plan CONFIG --calibrate)"
    return f"{took(found)}, {moves}\nmeasured {found['measured']} on {found['machine']}"


def took(found: dict[str, Any]) -> str:
    """Hours and minutes of a job, where they are known."""
    low, high, n = spell(found["low_s"]), spell(found["high_s"]), found["workers"]
    on = f"on {n:,} worker{'s' * (n != 1)}" if n else "without workers"
    hours = f"{found['worker_hours']:,.3g} {'GPU' if found['gpu'] else 'worker'}-hours"
    return f"about {hours}, {spell(found['wall_s'])} {on} ({low} to {high})"


def spell(seconds: float) -> str:
    """A time as people say it."""
    for most, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86400:,.3g} days"


def beforehand(found: dict[str, Any]) -> str:
    """What a run took, beside what was foreseen."""
    said = f"{spell(found['wall_s'])} was foreseen ({spell(found['low_s'])} to {spell(found['high_s'])})"
    took_s = "it has not ended" if found["took_s"] is None else f"it took {spell(found['took_s'])}"
    return f"run {found['run']}: {said}, {took_s}"


def _refused(entries: list[dict[str, Any]]) -> str:
    if not entries:
        return "nothing"
    return "\n".join(f"z {e['z'][0]}:{e['z'][1]}: {e['why']}" for e in entries[:10]) + (
        "\n…" if len(entries) > 10 else ""
    )


def paper(document: dict[str, Any]) -> None:
    """A plan of a volume that need not exist."""
    volume = f"{tuple(document['shape'])}, {size(document['bytes'])}"
    if not document["slabs"]:
        flagged, refused = f"{document['sections_flagged']} sections", document["not_restorable"]
        left = {"not restorable": _refused(refused)} if refused else {}
        pairs({"volume": volume, "flagged": flagged, "slabs": "none: nothing would be restored", **left})
        return
    rows = {
        "volume": volume,
        "flagged": f"{document['sections_flagged']} sections, {document['voxels']:.3g} voxels",
        "slabs": f"{document['slabs']:,} of {document['slab_px']} px",
        "halo": f"tiles and halos add {document['halo_overhead']:.0%} of pixels",
        "read, write": f"{size(document['bytes_to_read'])}, {size(document['bytes_to_write'])}, before compression",
        "memory": f"at most {size(document['peak_memory_bytes'])} per worker, besides its code",
        "time": _gpu_time(document["voxels"], document["pace_mpx_s"]),
        **({"with GPUs, if cores keep up": took(document["gpu_cost"])} if document["gpu_cost"]["measured"] else {}),
        "as measured": costs(document["cost"]),
        **({"a merge besides": f"{spell(document['merge_s'])} of the driver"} if document["merge_s"] else {}),
        **({"not restorable": _refused(document["not_restorable"])} if document["not_restorable"] else {}),
        "this plan": f"{document['planning_seconds']} s, {document['planning_peak_mib']} MiB",
    }
    pairs(rows)


def _gpu_time(voxels: int, pace_mpx_s: float) -> str:
    """What one GPU takes to restore so much, in a sentence."""
    hours = voxels / (pace_mpx_s * 1e6) / 3600
    said = f"{hours:,.0f} GPU-hours" if hours >= 10 else f"{spell(hours * 3600)} of one GPU"
    return f"{said}, if a GPU restores {pace_mpx_s:g} Mpx/s"


def summary(document: dict[str, Any]) -> None:
    """The final word of a run."""
    reviewed = f"{document['left_out']} left out by review, " if document["left_out"] else ""
    out.print(
        f"{document['done']} of {document['slabs']} slabs done, {reviewed}{document['quarantined']} quarantined; "
        f"{document['voxels_restored']:,} voxels restored in {document['seconds']:.1f} s -> "
        f"{escape(document['output'])}"
    )
    if document["voxels_uncertain"]:
        out.print(f"{document['voxels_uncertain']:,} voxels restored but uncertain, label 5: do not trust them")
    if document["not_restorable"]:
        out.print("left as they were, label 4:\n  " + _refused(document["not_restorable"]).replace("\n", "\n  "))
    if document["certificate"]:
        out.print(f"certificate: {escape(sentence(document['certificate']))}")
    out.print(f"next: zmend verify {escape(document['output'])}")


def ordered(document: dict[str, Any]) -> None:
    """What a run would make again for a reviewer."""
    slabs = "\n".join(document["made_again"][:SHOWN_SLABS]) + "\n…" * (len(document["made_again"]) > SHOWN_SLABS)
    count, besides = len(document["made_again"]), document["besides"]
    more = "these verdicts reject nothing" if not document["rejected"] else ""
    more = f"{document['ordered_before']} were ordered by this very file before" if document["ordered_before"] else more
    rows = {"made again": f"{count} slabs, each with another seed", "slabs": slabs, "not made again": more}
    pairs({**{k: v for k, v in rows.items() if v}, "besides": f"{besides} slabs that no run has done yet"})


def status(document: dict[str, Any]) -> None:
    """How far a run has come."""
    pairs({k: v for k, v in document.items() if k not in ("certificate", "behind", "foreseen")})
    if found := document["foreseen"]:
        out.print(beforehand(found))
    if document["behind"] and not document["locked"]:
        text = f"the merged volume is not what the overlay holds: zmend merge {escape(document['output'])}"
        out.print(f"{text}, or the same zmend run again")
    out.print(f"certificate: {escape(sentence(document['certificate']))}")


def check(document: dict[str, Any]) -> None:
    """One check of verify, as it ends."""
    mark = "[green]ok  [/]" if document["ok"] else "[red]FAIL[/]"
    out.print(f"{mark} {document['name']}: {escape(document['detail'])}")
    for finding in document["findings"]:
        out.print(f"       {escape(finding)}")


def verdict(document: dict[str, Any]) -> None:
    """The final word of verify."""
    changed, synthetic = document["voxels_changed_outside_mask"], document["voxels_synthetic"]
    parts = []
    if synthetic is not None:
        parts.append(f"{synthetic:,} synthetic voxels on record{_of_them(document['voxels_uncertain'])}")
    if changed is not None:
        compared = document["voxels_compared"]
        parts.append(f"{changed} voxels changed outside the mask, all {compared:,} of them compared")
    elif document["level"] in ("identity", "lineage", "replay"):
        parts.append("no merged volume")
    parts += [] if synthetic is None else [f"{document['voxels_left']:,} left as they were"]
    out.print(f"{_word(document)} (level {document['level']}): {', '.join(parts) or 'no voxels were read'}")


def _word(document: dict[str, Any]) -> str:
    if document["ok"]:
        return "verified"
    return "[yellow]not finished[/]" if document["unfinished"] else "[red]NOT verified[/]"


def story(document: dict[str, Any]) -> None:
    """All that a store knows of one voxel."""
    record = document["record"]
    rows = {
        "voxel": ",".join(map(str, document["at"])),
        "label": f"{document['label']}, {document['meaning']}" + _because(document["why_left"]),
        "value": f"{document['value']}, in the source {document['source_value']}",
        "flags": "\n".join(flag_words(f) for f in document["flags"]) or "none",
    }
    if spread := document["uncertainty"]:
        rows["uncertainty"] = f"{spread['grey_levels']:g} grey levels of 0..255"
    if record:
        rows |= {k: str(record[k]) for k in ("slab", "run", "plan", "restorer", "weights", "recipe", "seed")}
        inputs = {True: "the same today", False: "NOT the same today", None: "cannot be read today"}
        if "attempt" in record:
            why = record.get("rejected") or "nobody wrote why"
            rows["attempt"] = f"{record['attempt']} after the first; rejected: {why}"
        rows["inputs"] = f"{record['inputs_sha256']}, {inputs[document['inputs_match']]}"
        rows["chunk"] = "as it was written" if document["chunk_matches"] else "NOT as it was written"
    rows["history"] = "\n".join(_retired(r) for r in document["history"]) or "nothing was retired here"
    rows["doubts"] = "\n".join(document["doubts"]) or "none"
    pairs(rows)


def _because(why: str) -> str:
    return f": {why}" if why else ""


def flag_words(flag: dict[str, Any]) -> str:
    """A flag in a line."""
    (z0, y0, x0), (z1, y1, x1) = flag["box"]
    said = " by ".join(filter(None, (f"{flag['class']} in {z0}:{z1}, {y0}:{y1}, {x0}:{x1}", flag["source"])))
    return said + (f", mask {flag['mask']}" if flag["mask"] else "") + (f" ({flag['note']})" if flag["note"] else "")


def _retired(record: dict[str, Any]) -> str:
    if "doubt" in record:
        return f"slab {record['slab']}: {record['doubt']}"
    return f"made by run {record['run']} under plan {record['plan'][:12]}, retired by run {record['retired_by']}"


def _of_them(uncertain: int) -> str:
    return f" ({uncertain:,} of them uncertain)" if uncertain else ""


def demo(document: dict[str, Any]) -> None:
    """The demo's table of errors and where its picture lies."""
    table = Table(title="against the truth of the phantom, in restored voxels", title_justify="left")
    columns = list(document["methods"][0])
    for c in columns:
        table.add_column(c, justify="left" if c == "method" else "right")
    for row in document["methods"]:
        table.add_row(*(str(row[c]) for c in columns))
    out.print(table)
    pairs({"picture": document["picture"], "mended volume": document["output"], "verified": document["verified"]})


def findings(document: dict[str, Any]) -> None:
    """What the doctor found."""
    for f in document["findings"]:
        out.print(
            f"{'[green]ok  [/]' if f['ok'] else '[red]FAIL[/]'} {f['name']}: {escape(f['detail'])}"
            + (f"\n       do: {escape(f['do'])}" if f["do"] else "")
        )


def scripts(document: dict[str, Any]) -> None:
    """Batch scripts to read, or where they were written."""
    if "folder" in document:
        pairs(document)
        return
    for name, text in document.items():
        print(f"# ----- {name}\n{text}")


def pairs(document: dict[str, Any]) -> None:
    """Keys and values, a line each and no table: an address that is cut, or folded, cannot be opened."""
    width = max(map(len, document), default=0)
    for key, value in document.items():
        out.print(f"{key.replace('_', ' '):{width}}  {escape(str(value))}")


def scanned(document: dict[str, Any]) -> None:
    """What a scan found: how many of each class, and the surest of them."""
    again = document["looked_at"] < document["sections"]
    new = f", {document['added']} of them new, {document['gone']} gone" if again else ""
    table = Table(title=f"{document['found']} flags in {escape(document['flags'])}{new}", title_justify="left")
    for column in ("section", "class", "where (y, x)", "why"):
        table.add_column(column)
    for row in document["rows"][:SHOWN_FLAGS]:
        ends = [row.get(f"{axis}_{end}") for axis in "yx" for end in ("start", "stop")]
        part = "all of it" if ends[0] is None else "{}:{}, {}:{}".format(*ends)
        table.add_row(str(row["z_start"]), row["class"], part, escape(row["note"]))
    out.print(table)
    if document["found"] > SHOWN_FLAGS:
        classes = ", ".join(f"{n} {k}" for k, n in document["classes"].items())
        out.print(f"and {document['found'] - SHOWN_FLAGS} more; of all: {classes}")
    for move in document["moves"][:SHOWN_FLAGS]:
        out.print(f"from section {move['section']} on the stack lies elsewhere, {move['far']}: align it first")
    if document["voxel_nm"] is None:
        taken = f"its pixels were taken for {SCAN_NM:g} nm"
        out.print(f"the volume does not say its voxel size: {taken}. Say it with --voxel-nm Z,Y,X, into another --out")
    if document["held"]:
        sections = ", ".join(map(str, document["held"]))
        out.print(f"something else is found now in section {sections}: left as people have changed it")
    pace = document["bytes_read"] / max(document["seconds"], 1e-9)
    seen = f"looked at {document['looked_at']} of {document['sections']} sections, "
    out.print(f"{seen}read {size(document['bytes_read'])} in {document['seconds']:.1f} s ({size(pace)}/s)")
