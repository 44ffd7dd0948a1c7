"""What a merge clears away: chunks that neither source nor overlay has, half-made files; and what it leaves alone."""

from __future__ import annotations

import shutil

from pipeline.job import open_job
from pipeline.merge import merge
from pipeline.planfile import current_plan
from tests.jobs import Job
from tests.test_lineage import finished, job, out  # noqa: F401


def test_a_merge_removes_what_is_of_nobody_and_nothing_else(job: Job) -> None:  # noqa: F811
    levels = {p.name for p in (job.folder / "raw.zarr").iterdir() if p.is_dir()}
    source, mine = job.folder / "raw.zarr" / min(levels) / "c", job.folder / "out.zarr/0/c"
    before = {p.relative_to(mine) for p in mine.rglob("*") if p.is_file()}
    (source / "1/0/0").unlink()  # under restored voxels
    (source / "3/1/1").unlink()  # of nothing that was flagged
    shutil.copy2(mine / "0/0/0", mine / ".0.half.partial")
    open_job.cache_clear()
    merge(open_job(out(job), current_plan(out(job)).hash).source, out(job), clone="copy")
    after = {p.relative_to(mine) for p in mine.rglob("*") if p.is_file()}
    assert {str(p) for p in before ^ after} == {"3/1/1"}
