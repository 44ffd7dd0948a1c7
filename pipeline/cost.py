"""Cost: what a plan moves and how long it takes, from what it adds up to and from what a calibration measured.

    Load    what is to be done, counted by arithmetic: calls of the restorer, chunks, bytes (`workload`)
    Rates   what each of these takes on one site, measured in seconds (`calibrate`, kept by `rates`)
    Cost    bytes, worker-hours and wall time, with a range

A worker has three bounds, and the narrowest holds: its restorer, which serves one slab at a time; its cores, which the
reading and writing of other slabs also want; its lanes, in which a slab goes from stage to stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pipeline.lanes import LANES

MERGING = 4  # threads of a merge
TILES = 4  # that a certificate hides of each section, at most
DOUBT = 0.1  # of a rate, at least: another hour, another load of the machine


@dataclass(frozen=True, slots=True)
class Load:
    """What a plan adds up to. Bytes are decoded ones, of whole chunks."""

    slabs: int = 0
    calls: Mapping[int, int] = field(default_factory=dict)  # of the restorer, each a whole batch, by the gap's sections
    read_bytes: int = 0  # of the source's chunks under the read boxes
    seen_bytes: int = 0  # of the read boxes themselves
    write_chunks: int = 0  # of the overlay; labels, and a spread, have as many
    write_bytes: int = 0  # of the overlay and of the spread; labels compress to next to nothing
    merge_chunks: int = 0  # of the source that are written anew, all levels; 0 where there is no merge
    merge_bytes: int = 0  # of them, each read and written
    link_chunks: int = 0  # of the source that come over as they are
    probe_calls: int = 0  # of the certificate, one section each, at most

    def share(self, part: float) -> Load:
        """The same job with a part of its slabs left to do. The merge is not made less: it asks every chunk."""
        cut = ("slabs", "read_bytes", "seen_bytes", "write_chunks", "write_bytes")
        less = {name: round(getattr(self, name) * part) for name in cut}
        return replace(self, calls={k: round(n * part) for k, n in self.calls.items()}, **less)


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured, in seconds on the wall of one worker while all others measured too, cores its threads."""

    call_s: Mapping[int, float]  # one call of the restorer, by sections of the gap
    read_s_byte: float = 0.0
    see_s_byte: float = 0.0  # hashing of what was read
    write_s_chunk: float = 0.0  # of overlay, labels and spread: one chunk each, read back and durable
    record_s: float = 0.0  # a record
    probe_s: float = 0.0  # of a certificate's tile besides its call
    choose_s: float = 0.0  # of the driver, to choose one
    schedule_s: float = 0.0  # of the driver, a slab
    start_s: float = 0.0  # until the store is made and workers are there
    open_s: float = 0.0  # until a worker has loaded what it needs
    merge_s_byte: float = 0.0  # of one of the driver's threads while all are at work
    look_s_chunk: float = 0.0  # of a merge, at a chunk of overlay and labels
    link_s: float = 0.0  # an untouched chunk
    stored: float = 1.0  # bytes of a chunk of the source in its store, over its decoded bytes
    made: float = 0.0  # the same of chunks that hold tissue, as those do that are written; 0: not measured, as stored
    cores: float = 1.0  # of a worker, for the restorer's threads
    call_cores: float = 1.0  # that the restorer keeps busy while it is at work
    doubt: float = DOUBT  # spread of what was measured, relative

    def call(self, gap: int) -> float:
        """Seconds of one call for a gap of so many sections; between those that were measured, in proportion."""
        if gap in self.call_s or not self.call_s:
            return self.call_s.get(gap, 0.0)
        near = min(self.call_s, key=lambda k: abs(k - gap))
        return self.call_s[near] * (gap + 2) / (near + 2)  # two clean sections are seen with every gap

    @staticmethod
    def of(said: Mapping[str, Any]) -> Rates:
        """From JSON, whose keys are text. Raises TypeError, ValueError, AttributeError, KeyError."""
        numbers = {f.name: float(said[f.name]) for f in fields(Rates) if f.name in said and f.name != "call_s"}
        calls = {int(k): float(v) for k, v in said["call_s"].items()}
        if not all(math.isfinite(v) and v >= 0 for v in (*numbers.values(), *calls.values())):
            raise ValueError("a rate is no number of seconds")
        if not calls:
            raise ValueError("it tells of no call of the restorer")
        return Rates(calls, **numbers)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a job. Bytes of the store; seconds on the wall, most likely and within a range; hours of all workers."""

    bytes_read: int
    bytes_written: int
    merge_bytes_read: int
    merge_bytes_written: int
    worker_hours: float
    wall_s: float
    low_s: float
    high_s: float
    workers: int
    merge_s: float  # of the wall, in the driver alone
    driver_s: float  # that scheduling takes, of the wall or beside it
    restorer_share: float  # of the workers' time, that their restorers are at work


def cost(load: Load, rates: Rates, workers: int) -> Cost:
    """What a load costs on so many workers; 0: in the driver's own process, a slab after another."""
    hands = max(1, min(workers, load.slabs))
    restore = sum(n * rates.call(gap) for gap, n in load.calls.items())
    beside = (
        load.read_bytes * rates.read_s_byte
        + load.seen_bytes * rates.see_s_byte
        + load.write_chunks * rates.write_s_chunk
        + load.slabs * rates.record_s
    )
    most = math.ceil(load.slabs / hands) / load.slabs * hands if load.slabs else 1.0  # the last round may be short
    lone = (restore + beside) / hands * most  # nothing overlaps
    best = max(restore, (restore * rates.call_cores + beside) / rates.cores, (restore + beside) / LANES) / hands * most
    fill = min(beside / load.slabs, lone - best) if load.slabs else 0.0  # the first is read, the last written, alone
    work = lone if workers == 0 else max(best + fill, load.slabs * rates.schedule_s)
    probe = rates.call(1) + rates.probe_s
    certificate = math.ceil(load.probe_calls / max(1, workers)) * probe + load.probe_calls * rates.choose_s
    merge = _merge(load, rates) if load.merge_chunks + load.link_chunks else 0.0
    fixed = rates.start_s + rates.open_s if load.slabs or load.probe_calls else 0.0
    rest = fixed + certificate + merge
    low, high = (best if workers else lone) * (1 - rates.doubt), max(lone, work) * (1 + rates.doubt)
    return Cost(
        bytes_read=round(load.read_bytes * rates.stored),
        bytes_written=round(load.write_bytes * (rates.made or rates.stored)),
        merge_bytes_read=round(load.merge_bytes * rates.stored),
        merge_bytes_written=round(load.merge_bytes * (rates.made or rates.stored)),
        worker_hours=(work * hands + load.probe_calls * probe) / 3600,
        wall_s=work + rest,
        low_s=max(0.0, low + rest * (1 - rates.doubt)),
        high_s=high + rest * (1 + rates.doubt),
        workers=workers,
        merge_s=merge,
        driver_s=load.slabs * rates.schedule_s,
        restorer_share=restore / hands / work if work else 0.0,
    )


def _merge(load: Load, rates: Rates) -> float:
    """Seconds of a merge: its threads look at every chunk of the overlay, twice, then write; the rest is brought."""
    shared = load.merge_bytes * rates.merge_s_byte + 2 * load.write_chunks * rates.look_s_chunk
    return shared / MERGING + load.link_chunks * rates.link_s
