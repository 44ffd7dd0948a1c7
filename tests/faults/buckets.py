"""Faults of an object store: one request in ten fails, in four ways, and the run may be killed besides; a real S3 server."""

from __future__ import annotations

import atexit
import os
import random
import tempfile
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

import yaml

from pipeline.files import Files
from pipeline.ledger import Ledger
from tests.faults.harness import TURNS, Outcome, Stage, tail, unlike, visit
from tests.s3.conftest import KEYS, Server, serving
from tests.s3.faults import faulty
from tests.s3.jobs import said, upload


@lru_cache
def server() -> Server:
    """One server for all faults; its address and keys are in the environment from then on."""
    ends = ExitStack()
    atexit.register(ends.close)
    found = ends.enter_context(serving(Path(ends.enter_context(tempfile.TemporaryDirectory()))))
    os.environ.update({"AWS_ENDPOINT_URL": found.endpoint, "AWS_REGION": "us-east-1", **KEYS})
    return found


def s3_errors(stage: Stage, rng: random.Random, outcome: Outcome) -> Outcome:
    """Everything lies in a bucket behind a proxy that fails; half of the runs are killed, and go on without it."""
    s3, share = server(), rng.choice([0.05, 0.1, 0.2])
    place = f"s3://{s3.bucket()}/job"
    _move(stage, place)
    point, nth = visit(stage, rng, "write", "record", "merge", "pyramid", "attrs")
    kill = f"{point}=kill@{nth}" if rng.random() < 0.5 else ""
    env = {"AWS_ENDPOINT_URL": s3.endpoint, "AWS_REGION": "us-east-1", **KEYS}
    with faulty(s3.port, share=share, seed=outcome.seed) as (endpoint, faults):
        code = stage.run(faults=kill, **{**env, "AWS_ENDPOINT_URL": endpoint})
        outcome.what, outcome.struck = f"{share:.0%} of requests fail {kill}: {dict(faults.count)}", faults.count.total() > faults.count["passed"]
    if code not in ({0, -9} if kill else {0}):
        outcome.wrong.append(f"exit code {code}: {tail(stage)}")
    before, out = stage.restored(), f"{place}/out.zarr"
    kept, codes = Ledger(out).ids(), []
    while (not codes or codes[-1]) and len(codes) < TURNS:
        codes.append(stage.run(**env))
    after = stage.restored()[len(before) :]
    outcome.again, outcome.in_hand = sum(s in kept for s in after), sum(s in set(before) - kept for s in after)
    outcome.wrong += [f"the next runs ended with {codes}: {tail(stage)}"] * (codes != [0])
    outcome.wrong += unlike(_alike(out), _alike(str(stage.world.undisturbed.out)))
    return outcome


def _move(stage: Stage, place: str) -> None:
    """The job, with all that it reads, in a bucket."""
    for name in ("raw.zarr", "mask.zarr"):
        upload(stage.world.folder / name, f"{place}/{name}")
    flags = (stage.world.folder / "flags.csv").read_bytes().replace(str(stage.world.folder).encode(), place.encode())
    Files(place).put("flags.csv", flags)
    body = yaml.safe_load(stage.config.read_text())
    body["volume"]["path"], body["flags"], body["output"]["path"] = f"{place}/raw.zarr", f"{place}/flags.csv", f"{place}/out.zarr"
    stage.config.write_text(yaml.safe_dump(body))


def _alike(out: str) -> dict[str, str]:
    """What two stores in different places have in common."""
    return {k: v for k, v in said(out).items() if k not in (".zattrs", "zmend/seal.json")}
