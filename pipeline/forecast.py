"""Forecast: what a proposal will take on its site, from what was measured there; bytes alone where nothing was."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

from pipeline import rates
from pipeline.cluster import memory_per_process, processes_here, threads_per_worker
from pipeline.job import Proposal
from pipeline.memory import of_cell, of_merge, within
from pipeline.restorer import Needs
from pipeline.site import Site

Json = dict[str, Any]


def wanted(proposal: Proposal) -> Json:
    """What a calibration must be of to hold for a job: the keys of `rates.FITS`."""
    header, site = proposal.plan.header, proposal.config.site
    return {
        "restorer": header["restorer"]["digest"],
        "batch": header["recipe"]["batch"],
        "draws": header["recipe"].get("uncertainty", 0),
        "kind": site.kind,
        "threads": threads_per_worker(site),
    }


def hands(site: Site) -> int:
    """Worker processes of a site; 0: the driver's own."""
    return processes_here(site) if site.kind in ("local", "cuda") else site.workers


def forecast(proposal: Proposal, part: float = 1.0) -> Json:
    """Bytes, hours and seconds of a job of which that part of the slabs is left to do. Seconds and hours are null where
    nothing that fits was measured, and `why` says so; then bytes are those before compression."""
    site = proposal.config.site
    found, why = rates.find(proposal.config.output.path, wanted(proposal))
    gpu = site.gpus > 0 or site.kind == "cuda"
    return {**rates.told(proposal.load.share(part), found, hands(site), gpu=gpu), "why": why}


def memory(proposal: Proposal) -> Json:
    """Bytes that a process of the job takes at most on its site, besides Python and its libraries: one that restores,
    and the driver that merges (0: nobody does)."""
    header, source, site = proposal.plan.header, proposal.source, proposal.config.site
    needs = Needs.parse(header["restorer"], "the plan")
    return {
        "restore_bytes": within(memory_per_process(site), header["totals"], needs, source.piece_bytes),
        "merge_bytes": _merging(proposal) if proposal.config.output.mode == "volume" else 0,
    }


def _merging(proposal: Proposal) -> int:
    cells, finer = list[tuple[int, int]](), None
    flagged = Counter(z // proposal.source.grain[0] for a, b in proposal.flags.runs() for z in range(a, b))
    edge, sections = min(proposal.config.output.chunk_px, proposal.grain[1]), max(flagged.values(), default=0)
    for level in proposal.source.pyramid():
        cell = level.chunks if level.foreign else level.grain
        one = of_cell(cell, level.dtype.itemsize, finer=finer, label=(1, edge, edge), sections=sections)
        cells.append((one, prod(-(-n // c) for n, c in zip(level.shape, cell, strict=True))))
        finer = cell
    return of_merge(cells) if len(proposal.plan.slabs) else 0
