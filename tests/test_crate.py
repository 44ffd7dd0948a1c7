"""A run told as RO-Crate and as PROV-JSON: everything named is there, and says what the store says."""

from __future__ import annotations

import json
import re
import tomllib
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.account import account
from pipeline.crate import write_crate
from pipeline.errors import UsageError
from pipeline.packfile import decode, read_rows
from pipeline.prov import write_prov
from pipeline.summary import environment
from tests import golden
from tests.jobs import ROOT, command


@pytest.fixture(params=[k for k in golden.KINDS if k != "v1-reviewed"])  # of one run each
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(golden.unpack(request.param, tmp_path))


def by_id(folder: Path) -> dict[str, dict]:
    document = json.loads((folder / "ro-crate-metadata.json").read_text())
    assert document["@context"] == "https://w3id.org/ro/crate/1.1/context"
    entities = {e["@id"]: e for e in document["@graph"]}
    assert len(entities) == len(document["@graph"]), "no entity twice"
    return entities


def test_a_crate_holds_what_it_names(store: str, tmp_path: Path) -> None:
    said = write_crate(store, str(tmp_path / "crate"))
    found = by_id(tmp_path / "crate")
    files = {e["@id"] for e in found.values() if e["@type"] == "File"}
    assert files == {p["@id"] for p in found["./"]["hasPart"]} == {p.name for p in (tmp_path / "crate").iterdir()} - {"ro-crate-metadata.json"}
    for name in files:
        body = (tmp_path / "crate" / name).read_bytes()
        assert found[name]["sha256"] == sha256(body).hexdigest() and int(found[name]["contentSize"]) == len(body)
    action = found[f"#{said['run']}"]
    assert action["@type"] == "CreateAction" and action["actionStatus"]["@id"].endswith("CompletedActionStatus")
    for link in (*action["object"], *action["result"], action["instrument"], found["./"]["license"], found["./"]["mentions"]):
        assert link["@id"] in found, "every reference is resolved"
    assert found["#weights"]["description"] == "digest toy"


def test_a_crate_holds_every_record_of_the_run(store: str, tmp_path: Path) -> None:
    said = write_crate(store, str(tmp_path / "crate"))
    rows = read_rows((tmp_path / "crate/records.parquet").read_bytes())
    plan = json.loads((tmp_path / "crate/plan.json").read_text())
    assert {r["slab"] for r in rows} == {row[0] for row in plan["slabs"]}
    assert said["records"] == len(rows) == 5
    assert {decode(r)["run"] for r in rows} == {said["run"]}


def test_prov_is_closed_and_says_what_was_used(store: str, tmp_path: Path) -> None:
    said = write_prov(store, str(tmp_path / "run.prov.json"))
    found = json.loads((tmp_path / "run.prov.json").read_text())
    known = {**found["entity"], **found["activity"], **found["agent"]}
    relations = [r for kind in ("used", "wasGeneratedBy", "wasAssociatedWith", "wasDerivedFrom") for r in found[kind].values()]
    assert {name for r in relations for name in r.values()} <= set(known)
    assert found["entity"]["zmend:weights"]["zmend:sha256"] == "toy"
    assert found["entity"]["zmend:output"]["zmend:voxels_restored"] == account(store)["voxels_restored"] > 0
    assert f"zmend:run/{said['run']}" in found["activity"]


def test_refusals(store: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run 'other' in this store"):
        write_crate(store, str(tmp_path / "crate"), "other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="holds something already"):
        write_crate(store, str(tmp_path / "mine"))
    with pytest.raises(UsageError, match="is there already"):
        write_prov(store, str(tmp_path / "mine/thesis.txt"))
    assert not (tmp_path / "crate").exists() and (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_the_command(tmp_path: Path) -> None:
    golden.unpack("v1-volume", tmp_path)
    process = command("export", "out.zarr", "--crate", "crate", "--json", cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["records"] == 5 and (tmp_path / "crate/ro-crate-metadata.json").is_file()
    unsure = command("export", "out.zarr", cwd=tmp_path)
    assert "give --crate or --prov, one of the two" in unsure.communicate(timeout=120)[1] and unsure.returncode == 2


def test_the_environment_tells_gpus_driver_and_determinism(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 580.65.06'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = environment()
    assert found["gpus"] == [{"name": "NVIDIA H100 80GB HBM3", "driver": "580.65.06"}] and found["determinism"] == "device"
    (tmp_path / "nvidia-smi").unlink()
    found = environment()
    assert found["gpus"] == [] and found["determinism"] == "bitwise"
    assert found["python"].startswith("3.") and found["system"] and found["machine"] and found["cpus"] >= 1
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]
    declared = {re.split(r"[\[<>=]", d)[0] for d in (*project["dependencies"], *extra["gpu"], *extra["remote"])}
    assert set(found["packages"]) <= declared | {"zmend"}, "a package that was renamed would be absent for ever"
    assert {n for n, v in found["packages"].items() if v == "absent"} <= {"dask-cuda", "obstore"}
