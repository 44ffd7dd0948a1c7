"""One request in ten fails; processes are killed: the store is that of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import check
from pipeline.files import Files
from pipeline.job import propose
from pipeline.ledger import Ledger
from pipeline.run import run
from pipeline.verify import verify
from tests.jobs import command
from tests.s3.conftest import Server
from tests.s3.faults import WAYS, faulty
from tests.s3.jobs import build, document, said, upload

SLOW: dict[str, Any] = {"recipe": {"restorer": "tests.toys:Textured", "options": {"sleep": 0.05}}, "site": {"slab_px": 32}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    build(folder)
    return folder


def test_with_failing_requests_a_run_equals_the_undisturbed_one(folder: Path, s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket()
    run(propose(check(document(str(folder)))))
    place = f"s3://{bucket}/project"
    for name in ("raw.zarr", "mask.zarr"):
        upload(folder / name, f"{place}/{name}")
    Files(place).put("flags.csv", (folder / "flags.csv").read_bytes())
    with faulty(s3.port) as (endpoint, faults):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        run(propose(check(document(place))))
    assert all(faults.count[way] >= 5 for way in WAYS), faults.count
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert said(f"{place}/out.zarr") == said(str(folder / "out.zarr"))
    assert verify(f"{place}/out.zarr", replay=1)["ok"]


def test_create_has_one_winner_even_when_answers_are_lost(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket()
    with faulty(s3.port, share=0.4, seed=5) as (endpoint, faults):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        files = Files(f"s3://{bucket}/race")
        for n in range(8):
            assert files.create(f"{n}", b"first")
            assert not files.create(f"{n}", b"second")
            assert files.read(f"{n}") == b"first"
    assert faults.count["answer lost"] > 1


def test_a_killed_run_resumes_to_the_same_store(folder: Path, bucket: str, tmp_path: Path) -> None:
    place, wanted = f"s3://{bucket}/project", 18
    upload(folder / "raw.zarr", f"{place}/raw.zarr")
    upload(folder / "mask.zarr", f"{place}/mask.zarr")
    Files(place).put("flags.csv", (folder / "flags.csv").read_bytes())
    undisturbed = str(tmp_path / "undisturbed.zarr")
    run(propose(check(document(str(folder), undisturbed, **SLOW))))
    (tmp_path / "zmend.yaml").write_text(yaml.safe_dump(document(place, **SLOW)))
    ledger = Ledger(f"{place}/out.zarr")
    for target in (6,):  # of 18
        process = command("run", "zmend.yaml", cwd=tmp_path)
        while len(ledger.ids()) < target:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    last = command("run", "zmend.yaml", "--json", cwd=tmp_path)
    summary = json.loads(last.communicate(timeout=100)[0])
    assert summary["done"] == summary["slabs"] == wanted
    assert said(f"{place}/out.zarr") == said(undisturbed)
    logs = Files(f"{place}/out.zarr/zmend/runs")
    lines = [line for s in logs.walk() if "/log." in s.key for line in (logs.read(s.key) or b"").decode().splitlines()]
    done = Counter(e["slab"] for e in map(json.loads, lines) if e["kind"] == "slab")
    assert max(done.values()) == 1, "no finished slab is redone"
    assert verify(f"{place}/out.zarr")["ok"]
