"""One byte changed anywhere in a finished store is found, by `zmend verify` and by the second verifier.

All thousand: python -m tests.faults.tampering --count 1000 --seed 0
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import tampering
from tests.jobs import Job

SHARE, SEED = 5 * len(tampering.PLACES), 1


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = tampering.build(tmp_path_factory.mktemp("tampering"))
    assert not tampering.first_finds(job) and not tampering.second_finds(job)
    return job


def test_every_tampering_is_found_by_both(job: Job, tmp_path: Path) -> None:
    table, escaped = tampering.missed(job, SHARE, SEED, tmp_path)
    assert escaped == [], f"seed {SEED}"
    assert sum(counts["zmend verify"] + counts["same voxels"] for counts in table.values()) == SHARE
    assert not tampering.first_finds(job), "all was put back"


@pytest.mark.parametrize("place", ["loose record", "plan", "certificate", "merge.json", "seal", "array metadata", "group metadata"])
def test_a_blank_that_becomes_another_is_found(place: str, job: Job, tmp_path: Path) -> None:
    """It changes nothing that a program reads."""
    path = tampering.files_of(job)[place][0]
    at = path.read_bytes().index(b" ")
    with tampering.carried_out(tampering.Tampering(place, path, at, ord("\t")), tmp_path):
        assert tampering.first_finds(job) and tampering.second_finds(job)
