"""Revert: the volume as a run found it, byte for byte; history stays; killed, it goes on; a revert can be reverted."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import pipeline.ledger
from pipeline.box import Box
from pipeline.cli import cli
from pipeline.errors import Interrupted, PlanChangedError, RevertError, StoreLockedError, UsageError, VerifyError
from pipeline.job import propose
from pipeline.ledger import Ledger
from pipeline.lock import StoreLock
from pipeline.revert import revert, would_revert
from pipeline.run import Stop, run
from pipeline.store import open_labels
from pipeline.verify import verify
from pipeline.volume import Volume
from tests import independent
from tests.jobs import ENSEMBLE, NM, ROOT, Job, build, command, put_back, tissue, tree, voxels
from tests.stores import kind, write_volume

SHAPE = (12, 140, 140)
PARTS = {"output": {"chunk_px": 64}, "site": {"slab_px": 64}, "certificate": 1}
OTHER = {"recipe": {"restorer": "tests.toys:Retrained"}}


def outcome(out: Path) -> dict[str, str]:
    """sha256 of all that is in force: every chunk and document of every array, the group's attributes, each record,
    the certificate, the review. Not of logs, plans, history, the merge's notes."""
    found = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = path.relative_to(out).as_posix()
        if not name.startswith(("zmend/runs/", "zmend/plans/", "zmend/flags/", "zmend/kept/", "zmend/records/", "zmend/merge.json", "zmend/seal.json", "zmend/lock")):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    found |= {f"record {i}": json.dumps(record, sort_keys=True) for i, record in Ledger(str(out)).records()}
    return found


def check(out: Path) -> dict:
    """Both verifiers are content."""
    found = verify(str(out), replay=2)
    assert found["ok"], [c for c in found["checks"] if not c["ok"]]
    assert independent.verify(str(out)) == []
    return found


def runs(out: Path) -> list[str]:
    return sorted(p.name for p in (out / "zmend/runs").iterdir())


def history(out: Path) -> set[str]:
    return {p.name for p in (out / "zmend/records/retired").glob("*")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Two runs with pyramid: of the second some slabs are new, some gone, and all others of other weights."""
    job = build(tmp_path_factory.mktemp("finished"), SHAPE, chunks=(2, 64, 64))
    shutil.rmtree(job.raw)
    coarse = job.damaged.reshape(12, 70, 2, 70, 2).mean((2, 4)).astype(np.uint8)
    write_volume(job.raw, kind("ome05"), [job.damaged, coarse], chunks=(2, 32, 32), voxel_nm=NM, steps=[(1, 2, 2)])
    job.run(**PARTS)
    shutil.copytree(job.folder / "out.zarr", job.folder / "first.zarr", copy_function=os.link)
    text = (job.folder / "flags.csv").read_text().splitlines()
    job.flags("\n".join([*text[:-1], "8,9,missing,,,,,,,"]) + "\n")
    time.sleep(1.1)  # runs are named after the second in which they begin
    job.run(**PARTS, **OTHER)
    return job


@pytest.fixture
def job(finished: Job, tmp_path: Path) -> Iterator[Job]:
    yield from put_back(finished, tmp_path)


def test_a_run_reverted_is_the_volume_as_it_found_it_byte_for_byte(job: Job) -> None:
    out, second = job.folder / "out.zarr", outcome(job.folder / "out.zarr")
    first = outcome(job.folder / "first.zarr")
    assert first.keys() != second.keys()
    summary = revert(str(out), runs(out)[1])
    assert outcome(out) == first
    assert summary["brought_back"] > 0 and summary["retired"] > 0 and summary["merged"]
    found = check(out)
    assert found["voxels_changed_outside_mask"] == 0


def test_a_reverted_revert_is_what_was_there_before(job: Job) -> None:
    out = job.folder / "out.zarr"
    first, second = outcome(job.folder / "first.zarr"), outcome(out)
    before = history(out)
    back = revert(str(out), runs(out)[1])["run"]
    assert before <= history(out), "history stays"
    time.sleep(1.1)
    again = revert(str(out), back)["run"]
    assert outcome(out) == second
    check(out)
    time.sleep(1.1)
    revert(str(out), again)
    assert outcome(out) == first
    check(out)
    assert len(runs(out)) == 5, "each of them is an event of its own"


def test_the_first_run_reverted_leaves_the_source(job: Job) -> None:
    out = job.folder / "out.zarr"
    summary = revert(str(out), runs(out)[0])
    assert summary["reverted"] == runs(out)[:2]
    np.testing.assert_array_equal(voxels(out), job.damaged)
    assert not voxels(out, "labels").any() and not list(open_labels(str(out)).present())
    assert not Ledger(str(out)).ids()
    assert check(out)["slabs"] == 0
    coarse = Volume.open(str(job.raw), level=1)
    np.testing.assert_array_equal(Volume.open(str(out), level=1).read(Box.of(coarse.shape)), coarse.read(Box.of(coarse.shape)))
    revert(str(out), summary["run"])
    assert check(out)["slabs"] > 0


KILLED = """
import os, signal, sys
from pipeline.files import Files
left = [int(sys.argv[3])]
def counted(method):
    def call(*args, **kw):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*args, **kw)
    return call
for name in ("put", "keep", "lay", "create", "move", "delete", "sync"):
    setattr(Files, name, counted(getattr(Files, name)))
from pipeline.revert import revert, would_revert
revert(sys.argv[1], sys.argv[2])
"""


def test_a_killed_revert_goes_on_to_the_same_bytes(job: Job) -> None:
    """SIGKILL at the n-th change of a file, again and again, in what is left each time."""
    out, killed = job.folder / "out.zarr", 0
    first, run_id = outcome(job.folder / "first.zarr"), runs(out)[1]
    for after in (12, 60, 150, 4, 90):
        process = subprocess.run([sys.executable, "-c", KILLED, str(out), run_id, str(after)], cwd=ROOT, check=False)
        killed += process.returncode == -9
    assert killed >= 3
    revert(str(out), run_id)
    assert outcome(out) == first
    check(out)


@pytest.mark.parametrize("after", [12, 80])
def test_a_killed_revert_says_that_the_same_revert_goes_on(job: Job, after: int) -> None:
    out, run_id = job.folder / "out.zarr", runs(job.folder / "out.zarr")[1]
    process = subprocess.run([sys.executable, "-c", KILLED, str(out), run_id, str(after)], cwd=ROOT, check=False)
    assert process.returncode == -9
    said = CliRunner().invoke(cli, ["verify", str(out), "--level", "structure"])
    assert isinstance(said.exception, VerifyError)
    command = f"zmend run {out} --revert {run_id}"
    assert said.exception.do == f"the same revert again: {command}: it goes on where it stopped; then verify"
    ended = CliRunner().invoke(cli, shlex.split(command)[1:])
    assert ended.exit_code == 0 and outcome(out) == outcome(job.folder / "first.zarr")
    assert CliRunner().invoke(cli, ["verify", str(out), "--level", "structure"]).exit_code == 0


def test_a_killed_revert_may_be_given_up_for_a_run(job: Job) -> None:
    out, second = job.folder / "out.zarr", outcome(job.folder / "out.zarr")
    process = subprocess.run([sys.executable, "-c", KILLED, str(out), runs(out)[1], "80"], cwd=ROOT, check=False)
    assert process.returncode == -9
    job.run(**PARTS, **OTHER)
    again = outcome(out)
    assert {k for k in again if not k.startswith("record")} == {k for k in second if not k.startswith("record")}
    assert {k: v for k, v in again.items() if "/c/" in k} == {k: v for k, v in second.items() if "/c/" in k}
    check(out)


def test_what_is_kept_is_what_was_replaced_and_no_more(job: Job) -> None:
    out = job.folder / "out.zarr"
    kept = {p.relative_to(out / "zmend/kept" / runs(out)[0]).as_posix() for p in (out / "zmend/kept").rglob("*") if "/c/" in str(p) and p.is_file()}
    first = job.folder / "first.zarr"
    replaced = {f"overlay/{p.relative_to(first / 'zmend/overlay')}" for p in (first / "zmend/overlay/c").rglob("*") if p.is_file()}
    replaced |= {f"labels/{p.relative_to(first / 'labels/synthetic/0')}" for p in (first / "labels/synthetic/0/c").rglob("*") if p.is_file()}
    assert kept == replaced, "other weights: all of it"
    array = Volume.open(str(out / "zmend/kept" / runs(out)[0] / "overlay"))
    z = int(np.flatnonzero(voxels(first, "labels").any((1, 2)))[0])
    section = Box((z, 0, 0), (z + 1, *SHAPE[1:]))
    np.testing.assert_array_equal(array.read(section)[0], voxels(first, "overlay")[z])
    revert(str(out), runs(out)[1])
    assert not [p for p in (out / "zmend/kept" / runs(out)[0]).rglob("*") if "/c/" in str(p) and p.is_file()], "in force again"


def refused(out: Path, run_id: str, words: str, **kw) -> RevertError:
    """The revert is refused in these words, and nothing that is in force was touched."""
    before = outcome(out)
    with pytest.raises((RevertError, PlanChangedError), match=words) as e:
        revert(str(out), run_id, **kw)
    assert outcome(out) == before
    assert verify(str(out))["ok"] or "source" in words
    return e.value


def test_what_was_kept_and_is_gone_or_changed_is_told_before_anything_is_touched(job: Job) -> None:
    out = job.folder / "out.zarr"
    one = next(p for p in sorted((out / "zmend/kept").rglob("*")) if "overlay/c/" in str(p) and p.is_file())
    body = bytearray(one.read_bytes())
    body[len(body) // 2] ^= 1
    one.write_bytes(body)
    refused(out, runs(out)[1], "1 parts of that state are lost.*overlay chunk")
    shutil.rmtree(out / "zmend/kept")
    refused(out, runs(out)[1], "parts of that state are lost")
    for path in (out / "zmend/records/retired").iterdir():
        path.unlink()
    assert "config" in refused(out, runs(out)[1], "the record of slab .* is gone").do


def test_what_is_in_force_need_not_be_kept(tmp_path: Path) -> None:
    """A slab done again comes out the same: its bytes in force are those that were kept, and serve as well."""
    job = build(tmp_path, SHAPE, chunks=(2, 64, 64))
    job.flags("3\n")
    job.run(**PARTS)
    out, first = tmp_path / "out.zarr", outcome(tmp_path / "out.zarr")
    redone = run(propose(job.load(**PARTS)), redo=[min(Ledger(str(out)).ids())])["run"]
    shutil.rmtree(out / "zmend/kept")
    assert revert(str(out), redone)["brought_back"] == 1
    assert outcome(out) == first
    check(out)


def test_a_source_that_was_changed_since_is_told(job: Job) -> None:
    out, raw = job.folder / "out.zarr", Volume.open(str(job.raw), writable=True)
    raw.write(Box((4, 0, 0), (6, *SHAPE[1:])), 255 - job.damaged[4:6])
    refused(out, runs(out)[1], "the source, or a mask, is not what slab")


def test_weights_that_are_gone_are_told(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.toys.Textured.digest", "something else")
    refused(job.folder / "out.zarr", runs(job.folder / "out.zarr")[1], "the weights here are not the weights of the plan")


def test_states_that_cannot_be_gone_back_to(job: Job) -> None:
    out = job.folder / "out.zarr"
    _, second = runs(out)
    with pytest.raises(UsageError, match="there is no run '1999'") as e:
        revert(str(out), "1999")
    assert second in e.value.do
    with pytest.raises(UsageError, match="2 runs are called '20'"):
        revert(str(out), "20")
    with pytest.raises(UsageError, match="is not one that run .* found"):
        revert(str(out), second, slabs=["0"])
    time.sleep(1.1)
    nothing = job.run(**PARTS, **OTHER)["run"]
    assert second in refused(out, nothing, "changed nothing").do
    note = out / "zmend/runs" / second / "before.json"
    note.write_text(note.read_text().replace('"head": "', '"head": "0'))
    refused(out, second, "cannot be trusted")
    note.unlink()
    assert "bring that file back" in refused(out, second, "what was there before run .* is not known any more").do
    with StoreLock(str(out)), pytest.raises(StoreLockedError):
        revert(str(out), second)


def test_half_done_work_is_not_gone_back_to(tmp_path: Path) -> None:
    job = build(tmp_path, SHAPE, chunks=(2, 64, 64))
    stop = Stop()

    def once(event: dict) -> None:
        stop.requested = stop.requested or event["kind"] == "slab"

    with pytest.raises(Interrupted):
        run(propose(job.load(**PARTS)), on_event=once, stop=stop)
    time.sleep(1.1)
    last = job.run(**PARTS)["run"]
    error = refused(tmp_path / "out.zarr", last, "found a store in which work was under way")
    assert runs(tmp_path / "out.zarr")[0] in error.do
    revert(str(tmp_path / "out.zarr"), runs(tmp_path / "out.zarr")[0])
    np.testing.assert_array_equal(voxels(tmp_path / "out.zarr"), job.damaged)
    check(tmp_path / "out.zarr")


def test_spread_packs_shards_and_zarr_2_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.ledger, "PACK_AT", 1)
    job = build(tmp_path, SHAPE, chunks=(2, 64, 64), zarr_format=2)
    job.run(**PARTS, recipe=ENSEMBLE)
    out, first = tmp_path / "out.zarr", outcome(tmp_path / "out.zarr")
    time.sleep(1.1)
    last = job.run(**PARTS)["run"]
    assert not (out / "zmend/uncertainty").exists()
    back = revert(str(out), last)["run"]
    assert outcome(out) == first
    check(out)
    time.sleep(1.1)
    revert(str(out), back)
    assert not (out / "zmend/uncertainty").exists()
    check(out)


def test_a_source_that_has_grown_keeps_its_new_sections(tmp_path: Path) -> None:
    job = build(tmp_path, SHAPE, chunks=(2, 64, 64))
    job.flags("3\n")
    job.run(**PARTS)
    before = voxels(tmp_path / "out.zarr")
    raw = Volume.open(str(job.raw), writable=True)
    raw.resize((16, *SHAPE[1:]))
    raw.write(Box((12, 0, 0), (16, *SHAPE[1:])), tissue((16, *SHAPE[1:]))[12:])
    job.flags("3\n13\n")
    last = job.run(**PARTS)["run"]
    revert(str(tmp_path / "out.zarr"), last)
    np.testing.assert_array_equal(voxels(tmp_path / "out.zarr")[:12], before)
    np.testing.assert_array_equal(voxels(tmp_path / "out.zarr")[12:], raw.read(Box((12, 0, 0), (16, *SHAPE[1:]))))
    check(tmp_path / "out.zarr")


def test_chunks_of_nobody_are_erased_by_the_next_run(tmp_path: Path) -> None:
    """A run was killed over a slab that the next plan does not have: a merge would take its chunks for restored."""
    job = build(tmp_path, SHAPE, chunks=(2, 64, 64))
    job.flags("3\n8\n")
    job.run(**PARTS)
    ledger = Ledger(str(tmp_path / "out.zarr"))
    for slab_id, record in list(ledger.records()):
        if record is not None and record["write"][0][0] == 8:
            ledger.files.delete(ledger.key(slab_id))
    job.flags("3\n")
    job.run(**PARTS)
    np.testing.assert_array_equal(voxels(tmp_path / "out.zarr")[8], job.damaged[8])
    check(tmp_path / "out.zarr")


def test_as_a_command_with_the_configuration_or_the_store(job: Job) -> None:
    out, first = job.folder / "out.zarr", outcome(job.folder / "first.zarr")
    last = runs(out)[1]
    process = command("run", "zmend.yaml", "--revert", last, "--json", cwd=job.folder)
    said = json.loads(process.communicate(timeout=200)[0])
    assert process.returncode == 0
    assert said["reverted"] == [last] and outcome(out) == first
    process = command("run", "out.zarr", "--revert", "nobody", cwd=job.folder)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2 and "there is no run 'nobody'" in err
    process = command("run", "out.zarr", "--slab", "ab", cwd=job.folder)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2 and "--slab goes with --revert" in err
    log = [json.loads(line) for line in (out / "zmend/runs" / said["run"] / "log.jsonl").read_text().splitlines()]
    assert log[0]["kind"] == "begin" and log[-1]["kind"] == "end"
    assert json.loads((out / "zmend/runs" / said["run"] / "config.json").read_text()) == {"revert": last, "slabs": []}


def test_a_dry_run_tells_what_a_revert_would_do_and_does_nothing(job: Job) -> None:
    out = job.folder / "out.zarr"
    for run_id in runs(out):  # what the first found has a plan that is made for the revert
        before = tree(out)
        would = would_revert(str(out), run_id)
        assert tree(out) == before
        assert would["dry_run"] and would["run"] == "" and would["retired"] > 0
    process = command("run", "zmend.yaml", "--revert", runs(out)[1], "--dry-run", "--json", cwd=job.folder)
    said = json.loads(process.communicate(timeout=200)[0])
    assert process.returncode == 0 and tree(out) == before and said["brought_back"] > 0
    done = revert(str(out), runs(out)[1])
    same = set(said) - {"run", "seconds", "dry_run", "output"}
    assert {k: said[k] for k in same} == {k: done[k] for k in same}
    shutil.rmtree(out / "zmend/kept")
    with pytest.raises(RevertError, match="parts of that state are lost"):
        would_revert(str(out), done["run"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--sign", "nofile.pem"], "--sign does not go with --revert"),
        (["--redo", "ab", "--plan", "p.json", "--site", "s.yaml"], "--plan, --redo, --site do not go with --revert"),
        (["--only", "rejected", "--verdicts", "v.csv"], "--only does not go with --revert"),
        (["--render"], "--render does not go with --revert"),
        (["--certificate", "0"], "--certificate does not go with --revert"),
    ],
)
def test_options_that_a_revert_does_not_heed_are_refused(finished: Job, more: list[str], words: str) -> None:
    out = finished.folder / "out.zarr"
    before = runs(out)
    with pytest.raises(UsageError, match=words) as e:
        CliRunner().invoke(cli, ["run", str(out), "--revert", before[1], *more], catch_exceptions=False)
    assert e.value.exit_code == 2 and runs(out) == before


def test_slabs_that_only_have_other_ids_by_now_go_back_to_their_old_ones(tmp_path: Path) -> None:
    """The source's chunks were written anew and hold what they held: the chunks made of them stay where they are."""
    job = build(tmp_path, SHAPE, chunks=(2, 64, 64))
    job.flags("3\n8\n")
    job.run(**PARTS)
    out, first = tmp_path / "out.zarr", outcome(tmp_path / "out.zarr")
    time.sleep(1.1)
    raw = Volume.open(str(job.raw), writable=True)
    raw.write(Box((2, 0, 0), (6, *SHAPE[1:])), job.damaged[2:6])
    events: list[dict] = []
    last = run(propose(job.load(**PARTS)), on_event=events.append)["run"]
    assert next(e for e in events if e["kind"] == "begin")["kept"] > 0
    second = outcome(out)
    back = revert(str(out), last)["run"]
    assert outcome(out) == first
    assert verify(str(out))["ok"] and independent.verify(str(out)) == []
    time.sleep(1.1)
    revert(str(out), back)
    assert outcome(out) == second
    check(out)
