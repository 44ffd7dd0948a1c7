"""Forecast: what a proposal will take on its site, from what was measured there; bytes alone where nothing was."""

from __future__ import annotations

from typing import Any

from pipeline import rates
from pipeline.cluster import processes_here, threads_per_worker
from pipeline.job import Proposal
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
