"""Reviews: what is rejected is made again with a seed of its own, what is not accepted is left; the rest is not touched."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from pipeline.blend import LEFT
from pipeline.cli import cli
from pipeline.documents import schema
from pipeline.errors import Interrupted, UsageError, VerdictError, VolumeError
from pipeline.job import propose
from pipeline.ledger import Ledger
from pipeline.remerge import remerge
from pipeline.revert import revert
from pipeline.run import Stop, run
from pipeline.story import story
from pipeline.summary import status
from pipeline.verdicts import read
from pipeline.verify import verify
from tests import independent
from tests.jobs import Job, build, command, put_back, voxels
from tests.test_revert import PARTS, SHAPE, check, outcome

HEADER = "defect,slab,z0,z1,y0,y1,x0,x1,verdict,note"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = build(tmp_path_factory.mktemp("finished"), SHAPE, chunks=(2, 64, 64))
    job.flags("3\n8\n")
    job.run(**PARTS)
    time.sleep(1.1)  # runs are named after the second in which they begin
    return job


@pytest.fixture
def job(finished: Job, tmp_path: Path) -> Iterator[Job]:
    yield from put_back(finished, tmp_path)


def slabs(job: Job) -> list[Any]:
    return list(propose(job.load(**PARTS)).plan.slabs)


def csv(job: Job, *rows: tuple[int, str, str], name: str = "verdicts.csv") -> Path:
    """A file of verdicts as the report exports it. rows: which slab of the plan, verdict, note."""
    lines = [HEADER]
    for n, (i, verdict, note) in enumerate(rows, 1):
        s = slabs(job)[i]
        corners = [v for pair in zip(s.write.start, s.write.stop, strict=True) for v in pair]
        lines.append(",".join(map(str, (n, s.id, *corners, verdict, note))))
    path = job.folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def again(job: Job, path: Path | None, **kw: Any) -> tuple[dict, list[dict]]:
    """Run with these verdicts, and what was told."""
    events: list[dict] = []
    proposal = propose(job.load(**PARTS))
    judged = read(str(path), proposal.plan.slabs) if path else None
    return run(proposal, on_event=events.append, verdicts=judged, **kw), events


def made(job: Job) -> dict[str, dict]:
    return {i: r for i, r in Ledger(str(job.folder / "out.zarr")).records() if r is not None}


def test_rejected_slabs_are_made_again_with_another_seed_and_nothing_else_is(job: Job) -> None:
    out, one = job.folder / "out.zarr", slabs(job)[1]
    before, voxels_before = made(job), voxels(out)
    _, events = again(job, csv(job, (0, "accept", ""), (1, "reject", "smeared membranes"), (2, "", "")))
    assert [e["slab"] for e in events if e["kind"] == "slab"] == [one.id]
    after = made(job)
    assert {i for i in after if after[i] != before[i]} == {one.id}
    record = after[one.id]
    assert (record["seed"], record["attempt"], record["rejected"]) == (before[one.id]["seed"] + 1, 1, "smeared membranes")
    assert len(record["verdicts"]) == 64
    changed = voxels(out) != voxels_before
    place = np.zeros(SHAPE, bool)
    place[one.write.within(one.write.of(SHAPE))] = True
    assert changed.any() and not changed[~place].any()
    assert verify(str(out), replay=99)["ok"], "a replay draws with the slab's own seed"
    assert independent.verify(str(out)) == []
    told = story(str(out), one.write.start)
    assert told["ok"] and told["record"]["rejected"] == "smeared membranes" and told["history"]
    assert (out / "zmend/runs" / record["run"] / "verdicts.csv").read_bytes() == (job.folder / "verdicts.csv").read_bytes()


def test_an_attempt_that_the_record_does_not_tell_is_found(job: Job) -> None:
    out = job.folder / "out.zarr"
    again(job, csv(job, (1, "reject", "")))
    ledger, one = Ledger(str(out)), slabs(job)[1].id
    record = {k: v for k, v in made(job)[one].items() if k != "attempt"}
    ledger.files.delete(ledger.key(one))
    ledger.commit(record)
    assert not verify(str(out))["ok"] and independent.verify(str(out))


def test_the_same_verdicts_count_once_and_later_ones_count_on(job: Job) -> None:
    out, path, one = job.folder / "out.zarr", csv(job, (1, "reject", "first")), slabs(job)[1].id
    again(job, path)
    first = outcome(out)
    _, events = again(job, path)
    assert outcome(out) == first
    assert any("ordered anew by this very file before" in e["text"] for e in events if e["kind"] == "warning")
    again(job, None)
    assert outcome(out) == first, "a run without verdicts leaves it so"
    time.sleep(1.1)
    summary, _ = again(job, csv(job, (1, "reject", "second")))
    assert made(job)[one]["attempt"] == 2
    revert(str(out), summary["run"])
    assert outcome(out) == first
    again(job, csv(job, (1, "reject", "third")))
    assert made(job)[one]["attempt"] == 3, "an attempt that was reverted is not tried again"
    again(job, None, redo=[one])
    assert made(job)[one]["attempt"] == 3
    check(out)


def test_a_rejection_that_was_interrupted_is_carried_out_by_whichever_run_is_next(job: Job) -> None:
    stop = Stop(requested=True)
    with pytest.raises(Interrupted):
        again(job, csv(job, (0, "reject", ""), (1, "reject", "")), stop=stop)
    again(job, None)
    assert [made(job)[s.id].get("attempt", 0) for s in slabs(job)[:3]] == [1, 1, 0]
    check(job.folder / "out.zarr")


def test_one_slab_alone_goes_back_to_its_first_attempt(job: Job) -> None:
    out, before = job.folder / "out.zarr", made(job)
    one, two = (s.id for s in slabs(job)[:2])
    summary, _ = again(job, csv(job, (0, "reject", ""), (1, "reject", "")))
    revert(str(out), summary["run"], slabs=[one[:8]])
    assert made(job)[one] == before[one] and made(job)[two]["attempt"] == 1
    check(out)
    again(job, None)
    assert made(job)[one] == before[one], "and stays there"
    revert(str(out), summary["run"])
    assert made(job) == before
    check(out)


def test_only_what_was_accepted_is_merged(job: Job) -> None:
    out, before, whole = job.folder / "out.zarr", made(job), slabs(job)
    first = outcome(out)
    rows = [(i, "accept", "") for i in range(2, len(whole))]
    path = csv(job, (0, "reject", "a <b>smear</b>"), (0, "accept", ""), (1, "", ""), *rows)
    found = remerge(str(out), accepted=str(path))
    assert (found["slabs_accepted"], found["slabs_left_out"]) == (len(whole) - 2, 2)
    labels, merged = voxels(out, "labels"), voxels(out)
    for i, slab in enumerate(whole):
        at = slab.write.within(slab.write.of(SHAPE))
        assert (labels[at] == LEFT).all() == (i < 2)
        assert (merged[at] == job.damaged[at]).all() == (i < 2)
    now = made(job)
    assert [now[s.id]["left"][0]["why"] for s in whole[:2]] == ["rejected: a <b>smear</b>", "rejected: not accepted"]
    assert {i for i in now if now[i] != before[i]} == {s.id for s in whole[:2]}
    check(out)
    again(job, None)
    assert made(job) == now, "a run does not restore what was left out"
    assert remerge(str(out), accepted=str(path))["slabs_left_out"] == 0
    revert(str(out), found["run"])
    assert outcome(out) == first
    check(out)


def test_what_was_left_out_is_not_accepted_by_a_merge(job: Job) -> None:
    """Its voxels are not in force: the reviewer is told how to bring them back, and nothing is touched."""
    out, count, first = job.folder / "out.zarr", len(slabs(job)), outcome(job.folder / "out.zarr")
    left = remerge(str(out), accepted=str(csv(job, (0, "accept", ""))))
    before, every = outcome(out), csv(job, *((i, "accept", "") for i in range(count)))
    with pytest.raises(VerdictError, match=f"{count - 1} of {count} accepted slabs were left out by run {left['run']}") as e:
        remerge(str(out), accepted=str(every))
    assert f"--revert {left['run']}" in e.value.do and e.value.exit_code == 3
    assert outcome(out) == before
    revert(str(out), left["run"])
    assert remerge(str(out), accepted=str(every))["slabs_left_out"] == 0
    assert outcome(out) == first


def test_what_was_left_out_is_not_called_quarantined(job: Job) -> None:
    """The reviewer meant it: no later run ends with 4 for it."""
    out, count = job.folder / "out.zarr", len(slabs(job))
    remerge(str(out), accepted=str(csv(job, (0, "accept", ""), (1, "reject", "smeared"))))
    found = status(str(out))
    assert (found["done"], found["left_out"], found["quarantined"], found["pending"]) == (1, count - 1, 0, 0)
    ran = CliRunner().invoke(cli, ["run", str(job.config(**PARTS))])
    assert ran.exit_code == 0, ran.output
    assert f"1 of {count} slabs done, {count - 1} left out by review, 0 quarantined" in " ".join(ran.output.split())


def test_a_review_says_what_it_makes_again_and_what_besides(job: Job) -> None:
    """Dry and for real; a run does what nobody has done yet as well, and says so."""
    out, one, path = job.folder / "out.zarr", slabs(job)[0].id, csv(job, (0, "reject", "smeared"))
    none = csv(job, (0, "accept", ""), name="none.csv")
    job.flags("3\n8\n10\n")
    config = str(job.config(**PARTS))
    new, before = len({s.id for s in slabs(job)} - made(job).keys()), outcome(out)
    dry = CliRunner().invoke(cli, ["run", config, "--only", "rejected", "--verdicts", str(path), "-n", "--json"])
    said = json.loads(dry.stdout)
    assert (said["made_again"], said["ordered_before"], said["besides"]) == ([one], 0, new) and new > 0
    Draft202012Validator(schema("run")).validate(said)
    words = CliRunner().invoke(cli, ["run", config, "--only", "rejected", "--verdicts", str(none), "-n"]).output
    assert "these verdicts reject nothing" in words and f"{new} slabs that no run has done yet" in words
    assert outcome(out) == before
    _, events = again(job, path)
    told = [e["text"] for e in events if e["kind"] == "warning"]
    assert any(text.startswith(f"{new} slabs are done besides those that were rejected") for text in told)
    before = made(job)
    _, events = again(job, none)
    assert [e["text"] for e in events if e["kind"] == "warning"] == ["these verdicts reject nothing: no slab is made again for them"]
    assert made(job) == before


def test_what_was_left_out_can_be_made_again(job: Job) -> None:
    out = job.folder / "out.zarr"
    remerge(str(out), accepted=str(csv(job, *((i, "accept", "") for i in range(1, len(slabs(job)))))))
    again(job, csv(job, (0, "reject", "once more")))
    assert made(job)[slabs(job)[0].id]["attempt"] == 1
    assert not (voxels(out, "labels") == LEFT).any()
    check(out)


WRONG = {
    "slab,note\nab,x\n": "no column verdict",
    "": "no column slab and no column verdict",
    "slab,verdict\nab,maybe\n": "'maybe' is no verdict",
    "slab,verdict\nffffffffffffffffffffffffffffffff,reject\n": "1 of 1 slabs are not of the plan in force",
    f"{HEADER}\n1,SLAB,9,10,0,64,0,64,reject,\n": "does not touch slab",
    f"{HEADER}\n1,SLAB,3,4,0,64,0,x,reject,\n": "a corner of a box is no whole number",
    'slab,verdict\n"ab,reject\n': "no CSV file",
    b"slab,verdict\n\xff\xfe,reject\n": "no CSV file",
}


@pytest.mark.parametrize(("text", "words"), WRONG.items())
def test_verdicts_that_are_not_fit_are_refused(finished: Job, tmp_path: Path, text: str | bytes, words: str) -> None:
    known = propose(finished.load(**PARTS)).plan.slabs
    raw = text if isinstance(text, bytes) else text.replace("SLAB", known[0].id).encode()
    (tmp_path / "v.csv").write_bytes(raw)
    with pytest.raises(VerdictError, match=words) as e:
        read(str(tmp_path / "v.csv"), known)
    assert e.value.exit_code == 3 and e.value.do and str(tmp_path / "v.csv") in e.value.where


def test_verdicts_that_are_not_there(finished: Job, tmp_path: Path) -> None:
    with pytest.raises(VerdictError, match="no such file of verdicts"):
        read(str(tmp_path / "none.csv"), propose(finished.load(**PARTS)).plan.slabs)


def test_verdicts_of_another_plan_are_refused_and_nothing_is_done(job: Job) -> None:
    path, before = csv(job, (1, "reject", "")), outcome(job.folder / "out.zarr")
    job.config(**{**PARTS, "recipe": {"seed": 5}})
    process = command("run", "zmend.yaml", "--only", "rejected", "--verdicts", str(path), cwd=job.folder)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 3 and "not of the plan in force" in err and "line 2" in err
    assert outcome(job.folder / "out.zarr") == before


def test_a_review_that_cannot_be_read_stops_the_run(job: Job) -> None:
    (job.folder / "out.zarr/zmend/review.json").write_text('{"slabs": {"ab": {}}}')
    with pytest.raises(VolumeError, match="what was rejected in this store cannot be read"):
        again(job, None)


def test_as_commands_and_with_workers(job: Job) -> None:
    config = job.config(**{**PARTS, "site": {"slab_px": 64, "workers": 1}})
    path = csv(job, (1, "reject", "smeared"), *((i, "accept", "") for i in range(2, len(slabs(job)))))
    config = job.config(**{**PARTS, "site": {"slab_px": 64, "workers": 1}})
    process = command("run", str(config), "--only", "rejected", "--verdicts", str(path), "--json", cwd=job.folder)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert made(job)[slabs(job)[1].id]["attempt"] == 1
    process = command("merge", "out.zarr", "--only", "accepted", "--verdicts", str(path), "--json", cwd=job.folder)
    assert json.loads(process.communicate(timeout=200)[0])["slabs_left_out"] == 2
    process = command("merge", "out.zarr", "--only", "accepted", cwd=job.folder)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2 and "--only and --verdicts go together" in err
    check(job.folder / "out.zarr")


def test_a_slab_is_named_whole_or_not_at_all(job: Job) -> None:
    with pytest.raises(UsageError, match="is not one that run"):
        revert(str(job.folder / "out.zarr"), sorted(p.name for p in (job.folder / "out.zarr/zmend/runs").iterdir())[0], slabs=["zz"])
