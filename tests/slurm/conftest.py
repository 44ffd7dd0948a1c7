from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs import Job, build
from tests.slurm.daemons import Slurm, missing
from tests.slurm.runs import SLOW


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """Three nodes, for the length of the session. In /tmp: paths of sockets must be short."""
    if why := missing():
        pytest.skip(f"no SLURM can be started: {why}")
    folder = Path(tempfile.mkdtemp(prefix="zmend-slurm-"))
    with Slurm(folder / "slurm") as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A damaged volume, and beside it what the serial run makes of it."""
    made = build(tmp_path_factory.mktemp("slurm"))
    made.run("serial.zarr", recipe=SLOW, site={"slab_px": 128})
    return made
