"""A store is sealed when a run ends, not while one is at work, and not by one that did not find it as it was left."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from pipeline import seal
from pipeline.errors import UsageError, VolumeError
from pipeline.job import propose
from pipeline.remerge import remerge
from pipeline.run import run
from pipeline.store import read_attrs
from pipeline.verify import verify
from tests import golden
from tests.jobs import ROOT, Job, build


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = build(tmp_path, (12, 140, 140), chunks=(2, 64, 64))
    job.run(**PARTS)
    return job


PARTS = {"output": {"chunk_px": 128}, "certificate": 1}


def failed(job: Job) -> dict[str, list[str]]:
    return {c["name"]: c["findings"] for c in verify(str(job.folder / "out.zarr"))["checks"] if not c["ok"]}


def warnings(job: Job) -> list[str]:
    told: list[dict] = []
    run(propose(job.load(**PARTS)), on_event=told.append)
    return [e["text"] for e in told if e["kind"] == "warning"]


def touch(path: Path) -> None:
    """Change a document in a way that no reader notices."""
    path.write_text(path.read_text() + "\n")


@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json", "zmend/overlay/zarr.json", "labels/zarr.json", "zmend/merge.json", "zmend/certificate.json"])
def test_a_document_that_was_touched_is_named_and_the_next_run_says_so(name: str, job: Job) -> None:
    touch(job.folder / "out.zarr" / name)
    assert failed(job)["seal"] == [f"{name} is not what it was when the store was sealed"]
    assert warnings(job) == [f"{name} is not what the last run left; if nobody meant that, stop"]
    assert failed(job) == {} and warnings(job) == []
    assert (job.folder / "out.zarr/zmend/certificate.json").exists()


def test_the_seal_itself(job: Job) -> None:
    path = job.folder / "out.zarr/zmend/seal.json"
    path.write_text(path.read_text().replace("zmend/merge.json", "zmend/merge.jsom"))
    assert failed(job)["seal"] == ["zmend/seal.json is not what it was when the store was sealed"]


def test_a_killed_run_leaves_no_seal_and_that_is_said(job: Job) -> None:
    """As after a kill between the last document and the seal: nothing else is wrong."""
    (job.folder / "out.zarr/zmend/seal.json").unlink()
    found = verify(str(job.folder / "out.zarr"))
    assert not found["ok"] and found["unfinished"] == "the run has not ended"
    assert failed(job) == {"finished": ["its last run was killed before it sealed the store: run again"]}
    assert warnings(job) == []
    assert failed(job) == {}


def test_a_run_that_is_refused_seals_only_what_it_found_sealed(job: Job) -> None:
    proposal = propose(job.load(**PARTS))
    with pytest.raises(UsageError):
        run(proposal, redo=["zzzz"])
    assert failed(job) == {}
    touch(job.folder / "out.zarr/labels/zarr.json")
    with pytest.raises(UsageError):
        run(proposal, redo=["zzzz"])
    assert set(failed(job)) == {"finished"} and seal.broken(str(job.folder / "out.zarr"))


def test_a_merge_seals_too(job: Job) -> None:
    before = json.loads((job.folder / "out.zarr/zmend/seal.json").read_text())
    remerge(str(job.folder / "out.zarr"))
    assert failed(job) == {}
    assert json.loads((job.folder / "out.zarr/zmend/seal.json").read_text())["documents"].keys() == before["documents"].keys()


def test_while_a_run_is_at_work_there_is_no_seal(job: Job) -> None:
    there = []
    job.flags((job.folder / "flags.csv").read_text() + "8,9,missing,,,,,,,\n")
    run(propose(job.load(**PARTS)), on_event=lambda _: there.append((job.folder / "out.zarr/zmend/seal.json").exists()))
    assert there and not any(there)
    assert failed(job) == {}


def test_a_store_from_before_there_were_seals(tmp_path: Path) -> None:
    out = golden.unpack("v1-volume", tmp_path)
    assert seal.changed(str(out)) == [] and not seal.broken(str(out))
    assert verify(str(out))["ok"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("garbage", "metadata is not JSON"),
        ("[]", "metadata is not JSON"),
        ('{"zarr_format": 3, "attributes": []}', "the attributes cannot be understood"),
        ('{"zarr_format": 3, "attributes": {"zmend": 5}}', "the attributes cannot be understood"),
    ],
)
def test_attributes_that_cannot_be_read_are_an_error_in_words(text: str, words: str, job: Job) -> None:
    (job.folder / "out.zarr/zarr.json").write_text(text)
    with pytest.raises(VolumeError, match=words) as error:
        job.run(**PARTS)
    assert error.value.do and (job.folder / "out.zarr/zarr.json").read_text() == text
    with pytest.raises(VolumeError, match="the store's attributes cannot be read") as error:
        read_attrs(str(job.folder / "out.zarr"))
    assert "bring zarr.json" in error.value.do


# One takes away chunks that no seal names, and killed it must not look like a killed run; one leaves the store as it was.
NO_DOCUMENT = {"prune", "would_revert"}


def test_whoever_locks_a_store_seals_it() -> None:
    """So that no later writer forgets it. A lock of something else has a key of its own."""
    found = []
    for path in (ROOT / "pipeline").rglob("*.py"):
        functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        for function in (f for f in functions if f.name not in NO_DOCUMENT):
            for node in (n for n in ast.walk(function) if isinstance(n, ast.With)):
                calls = [i.context_expr for i in node.items if isinstance(i.context_expr, ast.Call)]
                if [len(c.args) for c in calls if ast.unparse(c.func) == "StoreLock"] == [1]:
                    found.append(function.name)
                    assert "Seal" in [ast.unparse(c.func) for c in calls], (path, function.name)
    assert found
