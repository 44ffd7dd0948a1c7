"""Calibrate: seconds of measuring on the very site, with the very restorer and volume, that tell what a plan will take.

Every worker of the site measures at the same time, on slabs of the plan, as they will work at the same time: a batch of
tiles restored, a part of a slab read and hashed, chunks written, a record. The driver measures how long workers take to
start, what a slab costs it, and what a merge does with a few chunks. All that is written goes to OUT.calibration beside
the output, and is removed.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.attempts import Attempts, OnEvent
from pipeline.box import ZYX, Box
from pipeline.clone import bring
from pipeline.cluster import threads_per_worker
from pipeline.cost import DOUBT, Rates
from pipeline.crew import Crew
from pipeline.errors import InputError
from pipeline.files import Files
from pipeline.flags import Flags
from pipeline.forecast import hands, wanted
from pipeline.job import Proposal, create_beside, recipe_of
from pipeline.plan import Slab
from pipeline.rates import Calibration
from pipeline.site import Site
from pipeline.summary import environment
from pipeline.trial import Trial
from pipeline.volume import Volume

NOOPS = 64  # slabs that do nothing, to see what one costs the driver
THREADS = 4  # of a merge
CHUNKS = 8  # of the source, that a merge is tried with
LINKS = 64
MOST = 0.5  # doubt, relative: on a machine that others use too, hardly anything is sure

Json = dict[str, Any]


class Nothing:
    """What a worker does with a slab to see what slabs cost the driver."""

    def __call__(self, row: list[Any]) -> Json:
        return {"slab": row[0]}


def calibrate(proposal: Proposal, tell: OnEvent = lambda _: None) -> Calibration:
    """Measure. Takes some seconds of every worker; with an ensemble, and on CPUs, up to a minute. Raises InputError."""
    if not len(proposal.plan.slabs):
        do = "flag what is damaged first"
        raise InputError("there is nothing to measure with", why="the plan has no slabs", do=do)
    began = time.perf_counter()
    with _scratch(proposal) as out:
        made_s = time.perf_counter() - began
        trials, driver = _crew(proposal, out, tell)
        driver["start_s"] += made_s
        merging = _merging(proposal, out) if proposal.config.output.mode == "volume" else {}
    return Calibration(
        _rates(trials, {**driver, **merging}, _stored(proposal.source)),
        wanted(proposal),
        time.strftime("%Y-%m-%d"),
        machine(proposal.config.site),
        len(trials),
    )


def machine(site: Site) -> str:
    """The machine in words, without its name: cores, GPUs, and what a worker has of them."""
    gpus = environment()["gpus"]
    cards = f", {len(gpus)} × {gpus[0]['name']}" if gpus else ""
    own = f"{threads_per_worker(site)} threads a worker"
    return f"{_processor()}, {os.cpu_count()} cores{cards}; {site.kind}, {own}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())


@contextmanager
def _scratch(proposal: Proposal) -> Iterator[str]:
    """A store of the output's kind beside it, and gone afterwards."""
    out = f"{proposal.config.output.path}.calibration"
    _remove(out)
    try:
        create_beside(proposal, out)
        yield out
    finally:
        _remove(out)


def _remove(out: str) -> None:
    files = Files(out)
    if files.local is not None:
        shutil.rmtree(files.local, ignore_errors=True)
    else:
        files.clear()


def _crew(proposal: Proposal, out: str, tell: OnEvent) -> tuple[list[Json], Json]:
    """What every worker measured, and what the driver did meanwhile."""
    site, about = proposal.config.site, proposal.plan.header["source"]
    task = Trial(
        out,
        (about["uri"], about["level"], about["voxel_nm"]),
        recipe_of(proposal.plan).model_dump_json(),
        threads_per_worker(site),
        gaps=tuple(_typical(proposal.load.calls)),
    )
    some = _spread(proposal.plan.slabs, max(1, hands(site)))
    steps = _steps(tell, len(some), task, proposal)
    with Crew(site, tell, lambda: False) as crew:

        def work(slabs: Sequence[Slab], what: Any) -> Iterator[Json]:
            attempts = Attempts(site.attempts, tell)
            yield from crew.work(slabs, what, attempts)
            attempts.finish(strict=True)

        next(steps)
        _, start_s = _timed(lambda: list(work(_noops(1), Nothing())))
        next(steps)
        trials = []
        for trial in work(some, task):
            trials.append(trial)
            next(steps)
        _, noops_s = _timed(lambda: list(work(_noops(NOOPS), Nothing())))
    return trials, {"start_s": start_s, "schedule_s": noops_s / NOOPS}


def _steps(tell: OnEvent, workers: int, task: Trial, proposal: Proposal) -> Iterator[None]:
    """Tells of one more step at each turn: the workers start, have started, and each of them has measured."""
    needs, gaps = proposal.plan.header["restorer"], " and ".join(map(str, task.gaps))
    what = f"{needs['name']}, batches of {proposal.plan.header['recipe']['batch']} tiles, gaps of {gaps} sections"
    text = f"{what}, on {workers} worker{'s' * (workers > 1)}: seconds, with a diffusion model on CPUs a few minutes"
    for done, said in enumerate([text, *[""] * (workers + 1)]):
        tell({"kind": "calibrate", "done": done, "of": workers + 1, "text": said})
        yield


def _typical(calls: Mapping[int, int]) -> list[int]:
    """The gap that is met most often, and the longest: two at most, for each takes its time."""
    return sorted({max(calls, key=lambda k: calls[k]), max(calls)}) if calls else [1]


def _spread(slabs: Sequence[Slab], n: int) -> list[Slab]:
    """Up to n slabs, spread over the plan."""
    n = min(n, len(slabs))
    return [slabs[(2 * i + 1) * len(slabs) // (2 * n)] for i in range(n)]


def _noops(n: int) -> list[Slab]:
    box = Box((0, 0, 0), (1, 1, 1))
    return [Slab(f"{i:032x}", box, box) for i in range(n)]


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    found = work()
    return found, time.perf_counter() - began


def _merging(proposal: Proposal, out: str) -> Json:
    """What a merge does with some chunks of the source: written anew, by its threads; and brought as they are."""
    source, target = proposal.source, Volume.open(out, writable=True)
    some = list(islice(source.objects(), LINKS))
    cells = [target.box(_first(source.box(cell), target.grain)) for cell, _ in some[:CHUNKS]]
    if not cells:
        return {}

    def mend(box: Box) -> None:
        target.write(box, mended(source.read(box), box, proposal.flags))

    mend(cells[0])  # folders are made, code is loaded
    with ThreadPoolExecutor(THREADS) as pool:
        _, wrote_s = _timed(lambda: list(pool.map(mend, cells)))
    rest = [] if source.foreign else [s for _, s in some[CHUNKS:]]  # of which nothing is brought as it lies
    _, brought_s = _timed(lambda: bring(source.files, target.files, rest, "auto"))
    threads, moved = min(THREADS, len(cells)), sum(box.size for box in cells) * source.dtype.itemsize
    return {"merge_s_byte": wrote_s * threads / moved, "link_s": brought_s / max(1, len(rest))}


def _first(box: Box, grain: ZYX) -> ZYX:
    """The first cell of a box."""
    z, y, x = (a // g for a, g in zip(box.start, grain, strict=True))
    return z, y, x


def mended(voxels: NDArray[Any], box: Box, flags: Flags) -> NDArray[Any]:
    """A chunk as it will be, roughly: what is missing is black, and takes less time to encode than tissue does."""
    spans = [(f.box.start[0], f.box.stop[0]) for f in flags.touching(box) if f.restorable and f.whole]
    missing = {z for first, last in spans for z in range(max(first, box.start[0]), min(last, box.stop[0]))}
    intact = [z - box.start[0] for z in range(box.start[0], box.stop[0]) if z not in missing]
    for z in missing if intact else ():
        voxels[z - box.start[0]] = voxels[intact[z % len(intact)]]
    return voxels


def _stored(source: Volume) -> float:
    """Bytes of some chunks in the store over their decoded bytes."""
    some = [(cell, s.size) for cell, s in islice(source.objects(), LINKS)]
    whole = sum(source.box(cell).size for cell, _ in some) * source.dtype.itemsize
    return sum(size for _, size in some) / whole if whole else 1.0


def _rates(trials: Sequence[Json], others: Mapping[str, float], stored: float) -> Rates:
    """Medians over the workers; as doubtful as they and their rounds differ."""
    gaps = {gap: [s for t in trials for s in t["calls"][gap]] for gap in trials[0]["calls"]}
    spread = [statistics.pstdev(s) / statistics.median(s) for s in gaps.values() if len(s) > 1]
    one = {name: statistics.median(t[name] for t in trials) for name in trials[0] if name != "calls"}
    made = Rates({gap: statistics.median(s) for gap, s in gaps.items()}, **one, **others, stored=stored)
    return replace(made, doubt=min(MOST, max([DOUBT, *spread])))
