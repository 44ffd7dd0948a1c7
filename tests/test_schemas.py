"""What --json prints, of every verb, is what `zmend schema VERB` says; the commands are the real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator, ValidationError

from pipeline.cli import cli
from pipeline.cli import view as viewing
from pipeline.documents import VERBS, schema
from pipeline.planfile import current_plan
from tests.jobs import ENSEMBLE, Job, build

HANDED_OVER = {"train", "evaluate"}  # write JSON into files of their own


def zmend(*args: str, code: int = 0) -> list[Any]:
    """The documents that a command prints, a line each; nothing else is on stdout."""
    found = CliRunner().invoke(cli, [*args, "--json"])
    assert (found.exit_code, found.exception) == (code, None) or (code and found.exit_code), (found.output, found.exception)
    return [json.loads(line) for line in found.stdout.splitlines()]


def of_kind(verb: str, name: str) -> Draft202012Validator:
    """The validator of one of the documents that a verb may print: any of them would be too easy to please."""
    whole = schema(verb)
    parts = whole.get("$defs", {})
    if name not in parts:
        assert "anyOf" not in whole, "the verb prints several documents, and none is called so"
        return Draft202012Validator(whole)
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": parts})


def holds(verb: str, name: str, *documents: Any) -> None:
    assert documents
    for document in documents:
        Draft202012Validator(schema(verb)).validate(document)
        one = of_kind(verb, name)
        one.validate(document)
        assert not one.is_valid(document | {"unheard_of": 1}), "a key that no schema tells of would go unseen"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return build(tmp_path_factory.mktemp("job"))


def test_every_verb_that_takes_json_has_a_schema_that_is_one() -> None:
    takes = {name for name, verb in cli.commands.items() if any("--json" in p.opts for p in verb.params)}
    assert takes == set(VERBS)
    assert set(cli.commands) - takes == HANDED_OVER | {"schema", "completion"} & set(cli.commands)
    for verb in VERBS:
        Draft202012Validator.check_schema(json.loads(CliRunner().invoke(cli, ["schema", verb]).stdout))
    assert CliRunner().invoke(cli, ["schema"]).stdout.split() == list(VERBS)


def test_a_verb_without_one() -> None:
    found = CliRunner().invoke(cli, ["schema", "train"])
    assert "'train' prints no JSON document" in str(found.exception) and "name one of plan, scan" in str(found.exception)


def test_a_run_from_plan_to_export(job: Job) -> None:
    recipe = {"recipe": ENSEMBLE}
    path, out, to = str(job.config(**recipe)), str(job.folder / "out.zarr"), job.folder
    holds("plan", "Plan", *zmend("plan", path), *zmend("plan", path, "--explain"))
    holds("plan", "Paper", *zmend("plan", "--shape", "200,20000,20000"))
    holds("run", "Plan", *zmend("run", path, "-n"))
    holds("run", "Summary", *(first := zmend("run", path)))
    holds("plan", "Plan", *zmend("plan", path, "--explain"))
    holds("status", "Status", *zmend("status", out))
    holds("status", "Watched", *zmend("status", out, "-w"))
    slab = current_plan(out).slabs[0]
    holds("status", "Dossier", *zmend("status", out, slab.id[:20]))
    holds("verify", "Verified", *zmend("verify", out), *zmend("verify", out, "--level", "structure"))
    holds("verify", "Story", *zmend("verify", out, "--at", "0,0,0"), *zmend("verify", out, "--at", ",".join(map(str, slab.write.start))))
    holds("report", "Report", *zmend("report", out, "--out", str(to / "a.html")))
    holds("report", "Sheet", *zmend("report", str(job.raw), "--flags", str(to / "flags.csv"), "--out", str(to / "b.html")))
    holds("view", "Link", *zmend("view", out, "--link", str(to / "link.json"), "--base-url", "https://a.b/c"))
    holds("export", "Crate", *zmend("export", out, "--crate", str(to / "crate")))
    holds("export", "Prov", *zmend("export", out, "--prov", str(to / "prov.json")))
    holds("merge", "Merged", *zmend("merge", out))
    (to / "all.csv").write_text("slab,verdict\n" + "".join(f"{s.id},accept\n" for s in current_plan(out).slabs[1:]))
    holds("merge", "Merged", *zmend("merge", out, "--only", "accepted", "--verdicts", str(to / "all.csv")))
    holds("verify", "Story", *zmend("verify", out, "--at", ",".join(map(str, slab.write.start))))
    holds("run", "Reverted", *zmend("run", out, "--revert", first[0]["run"]))
    holds("prune", "Pruned", *zmend("prune", out, "-n"), *zmend("prune", out, "--reverts", "0"))


def test_scripts_scans_nights_and_the_doctor(job: Job) -> None:
    site = job.folder / "slurm.yaml"
    site.write_text("kind: slurm\nworkers: 2\nfolder: jobs\n")
    path = str(job.config("night.zarr", name="night.yaml", certificate=0))
    (scripts,) = zmend("run", path, "--site", str(site), "--render")
    of_kind("run", "Scripts").validate(scripts)
    assert not of_kind("run", "Scripts").is_valid(scripts | {"number": 1})
    holds("run", "Written", *zmend("run", path, "--site", str(site), "--render", str(_folder(job, "scripts"))))
    holds("nightly", "Rendered", *zmend("nightly", path, "--render", "cron"))
    holds("scan", "Scanned", *zmend("scan", str(job.raw), "--out", str(job.folder / "found.csv")))
    holds("nightly", "Night", *zmend("nightly", path, "--no-scan"), *zmend("nightly", path, "--no-scan"))
    holds("doctor", "Examined", *zmend("doctor", str(job.folder)))


def _folder(job: Job, name: str) -> Path:
    (job.folder / name).mkdir()
    return job.folder / name


def test_what_is_seen_while_it_serves(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.run("seen.zarr", certificate=0)
    monkeypatch.setattr(viewing, "wait", lambda: None)
    holds("view", "View", *zmend("view", str(job.folder / "seen.zarr")))


@pytest.mark.parametrize("spoil", [lambda d: d.update(more=1), lambda d: d.pop("slabs"), lambda d: d.update(done="3")], ids=["more", "less", "other"])
def test_a_schema_is_not_pleased_by_anything(spoil: Callable[[Any], Any]) -> None:
    good = {"run": "r", "slabs": 3, "done": 3, "quarantined": 0, "left_out": 0, "not_restorable": [], "voxels_restored": 1, "voxels_uncertain": 0,
            "certificate": None, "output": "o", "plan": "p", "bytes_read": 1, "bytes_written": 1, "seconds": 0.5}  # fmt: skip
    of_kind("run", "Summary").validate(good)
    spoil(good)
    with pytest.raises(ValidationError):
        of_kind("run", "Summary").validate(good)
