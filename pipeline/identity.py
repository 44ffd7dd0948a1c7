"""Identity: outside the mask the merged volume is the source, voxel for voxel; coarser levels are what lies under them.

Counts are exact: nothing is sampled, nothing rounded.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pipeline.blend import synthetic
from pipeline.box import ZYX, Box
from pipeline.check import Check, first
from pipeline.errors import ZmendError
from pipeline.pyramid import audit
from pipeline.sight import Job
from pipeline.threads import in_order
from pipeline.volume import Volume

ANEW = "; once source and overlay are right, zmend merge STORE --anew brings their voxels over again"


def identity(merged: Volume, job: Job, threads: int, tally: Counter[str]) -> Check:
    """Outside the mask the merged volume is the source, voxel for voxel; inside it is the overlay."""
    check = Check("identity")
    whole = Box.of(job.source.shape)

    def look(cell: Box) -> tuple[int, int, str]:
        box = cell & whole
        try:
            source, made, marks = job.source.read(box), merged.read(box), job.labels.read(box)
            kept = ~synthetic(marks)
            astray = int(((job.overlay.read(box) != made) & ~kept).sum()) if not kept.all() else 0
        except (ZmendError, OSError) as e:
            return 0, 0, first(e)
        changed = int(((source != made) & kept).sum())
        said = f"{changed} voxels outside the mask differ from the source in {box}" if changed else ""
        return (
            changed,
            int(kept.sum()),
            said or (f"{astray} synthetic voxels are not the overlay's in {box}" if astray else ""),
        )

    with ThreadPoolExecutor(threads) as pool:
        for changed, kept, finding in in_order(pool, look, whole.cells(_coarse_grain(job.source))):
            tally.update(changed=changed, compared=kept)
            check.findings += [finding] if finding else []
    check.detail = f"{tally['compared']} voxels outside the mask compared, {tally['changed']} differ"
    check.detail += ANEW * bool(check.findings)
    return check


def pyramid(out: str, job: Job, threads: int) -> Check:
    """Coarser levels, voxels and labels, are what the mended level makes of them, and the source's elsewhere."""
    check, coarser = Check("pyramid"), job.source.pyramid()[1:]
    with ThreadPoolExecutor(threads) as pool:
        for i, source in enumerate(coarser, start=1):
            whole = Box.of(source.shape)
            boxes = (cell & whole for cell in whole.cells(_coarse_grain(source)))
            wrong: Counter[str] = Counter()
            for voxels, labels, finding in in_order(pool, partial(_audited, job, out, i), boxes):
                wrong.update(voxels=voxels, labels=labels)
                check.findings += [finding] if finding else []
            check.findings += [f"{n} {what} of level {i} are not what is under them" for what, n in wrong.items() if n]
    check.detail = f"{len(coarser)} coarser levels computed anew{ANEW * bool(check.findings)}"
    return check


def _audited(job: Job, out: str, level: int, box: Box) -> tuple[int, int, str]:
    try:
        return *audit(job.source, out, level, box), ""
    except (ZmendError, OSError) as e:
        return 0, 0, f"level {level}: {first(e)}"


def _coarse_grain(volume: Volume) -> ZYX:
    """Whole chunks, and not too small a bite."""
    z, y, x = volume.grain
    return z, -(-512 // y) * y, -(-512 // x) * x
