"""Digests: every chunk that a record names is read back, hashed, and held against flags, labels and spread."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.blend import LEFT, RESTORED, UNCERTAIN, refused, synthetic
from pipeline.box import Box
from pipeline.check import Check, first
from pipeline.errors import ZmendError
from pipeline.flags import flagged
from pipeline.sight import Job


def digests(records: Mapping[str, Any], job: Job, threads: int, tally: Counter[str]) -> Check:
    """Every chunk that a record names is there and hashes to what the record says; labels add up."""
    check, chunks = Check("digests"), 0

    def look(slab: str, chunk: list[Any]) -> tuple[list[str], Counter[int]]:
        box, said = Box(tuple(chunk[0]), tuple(chunk[1])), chunk[2:]
        arrays = {"overlay": job.overlay, "label": job.labels}
        if job.uncertainty is not None and len(said) > len(arrays):
            arrays["uncertainty"] = job.uncertainty
        try:
            seen = {name: array.read(box) for name, array in arrays.items()}
        except (ZmendError, OSError) as e:
            return [f"slab {slab}: {first(e)}"], Counter()
        marks = seen["label"]
        wrong = _unflagged(box, marks, job) + _unlike(box, marks, seen.get("uncertainty"), job)
        wrong += [f"slab {slab}, chunk {box} has {len(said)} digests"] * (len(said) != len(arrays))
        wrong += [
            f"slab {slab}, {name} chunk {box} is not what was written"
            for (name, array), digest in zip(seen.items(), said, strict=False)
            if sha256(array.tobytes()).hexdigest() != digest
        ]
        values, counts = np.unique(marks, return_counts=True)
        return wrong, Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    def settle(slab: str, recorded: dict[str, int], looks: list[Future[tuple[list[str], Counter[int]]]]) -> None:
        found = [f.result() for f in looks]
        check.findings += [words for wrong, _ in found for words in wrong]
        sums = sum((counts for _, counts in found), Counter[int]())
        if Counter({int(k): n for k, n in recorded.items()}) != Counter({**sums, 0: 0}):
            check.findings.append(f"slab {slab} recorded {recorded} voxels, its labels hold {dict(sums)}")
        tally["synthetic"] += sum(sums[v] for v in RESTORED)
        tally["uncertain"] += sums[UNCERTAIN]
        tally["left"] += sums[LEFT]

    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Any] = deque()  # slabs whose chunks are being read: a few, since a million do not fit into memory
        for slab, record in records.items():
            chunks += len(record["chunks"])
            ahead.append((slab, record["voxels"], [pool.submit(look, slab, c) for c in record["chunks"]]))
            if len(ahead) > threads:
                settle(*ahead.popleft())
        for each in ahead:
            settle(*each)
    check.detail = f"{chunks} chunks read back and hashed"
    return check


def _unflagged(box: Box, marks: NDArray[Any], job: Job) -> list[str]:
    """Labelled voxels that no flag tells of."""
    beyond = int(((marks > 0) & (flagged(job.flags.touching(box), box, job.read_mask) == 0)).sum())
    return [f"{beyond} labelled voxels in {box} are not flagged"] if beyond else []


def _unlike(box: Box, marks: NDArray[Any], counts: NDArray[Any] | None, job: Job) -> list[str]:
    """Where labels and spread contradict each other: spread where nothing was restored, label 5 on the wrong side."""
    spread = np.zeros(marks.shape, np.uint8) if counts is None else counts
    made = synthetic(marks)
    beyond = int(((spread > 0) & ~made).sum())
    wrong = int((made & ((marks == UNCERTAIN) != refused(spread, job.recipe.refuse_above))).sum())
    said = [f"{beyond} voxels in {box} have a spread, and were not restored"] if beyond else []
    said += [f"{wrong} voxels in {box} are labelled uncertain, or are not, against their spread"] if wrong else []
    lost = job.uncertainty is not None and counts is None and bool(made.any())
    return said + [f"the restored voxels in {box} have no spread on record"] * lost
