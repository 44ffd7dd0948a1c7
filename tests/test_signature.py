"""Signatures: a key vouches for plan and records; what changes them takes it away; a revert brings it back."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import seal
from pipeline.errors import UsageError
from pipeline.job import propose
from pipeline.ledger import Ledger
from pipeline.recipe import canonical
from pipeline.revert import revert
from pipeline.run import run
from pipeline.signature import FIRST, faults, private_key, public_key
from pipeline.store import update_attrs
from pipeline.summary import status
from pipeline.verify import verify
from tests.jobs import Job, build, command, put_back
from tests.test_revert import PARTS, SHAPE


def key(folder: Path, name: str, kind: str = "ed25519") -> None:
    """A pair as openssl makes it: NAME.pem and NAME.pub."""
    for args in (f"genpkey -algorithm {kind} -out {name}.pem", f"pkey -in {name}.pem -pubout -out {name}.pub"):
        subprocess.run(["openssl", *args.split()], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = build(tmp_path_factory.mktemp("finished"), SHAPE, chunks=(2, 64, 64))
    job.flags("3\n")
    key(job.folder, "mine")
    key(job.folder, "other")
    run(propose(job.load(**PARTS)), sign=str(job.folder / "mine.pem"))
    return job


@pytest.fixture
def job(finished: Job, tmp_path: Path) -> Iterator[Job]:
    yield from put_back(finished, tmp_path)


def signature(job: Job, name: str = "") -> dict:
    """What verify says of the signature; name: of the key that it must be of."""
    public = public_key(str(job.folder / f"{name}.pub")) if name else ""
    found = verify(str(job.folder / "out.zarr"), public=public)
    return next((c for c in found["checks"] if c["name"] == "signature"), {})


def test_a_signed_store_is_vouched_for_by_its_key_alone(job: Job) -> None:
    assert signature(job, "mine")["ok"] and signature(job)["ok"]
    (finding,) = signature(job, "other")["findings"]
    assert "signed with another key" in finding


def test_a_record_that_was_forged_in_every_digest_is_found(job: Job) -> None:
    ledger = Ledger(str(job.folder / "out.zarr"))
    slab_id, record = next(iter(ledger.records()))
    assert record is not None
    ledger.files.delete(ledger.key(slab_id))
    ledger.commit({**record, "seconds": [0.0, 0.0]})
    found = verify(str(job.folder / "out.zarr"))
    assert [c["name"] for c in found["checks"] if not c["ok"]] == ["signature"]
    assert "records: not what was signed" in signature(job, "mine")["findings"][0]


def test_another_plan_than_the_one_that_was_signed(job: Job) -> None:
    out = str(job.folder / "out.zarr")
    update_attrs(out, zmend={"head": "0" * 64})
    assert faults(out) == ["plan: not what was signed"]


def test_a_signature_that_was_edited_is_none(job: Job) -> None:
    path = job.folder / "out.zarr/zmend/signature.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "head": "0" * 64}))
    assert "the signature is none" in signature(job, "mine")["findings"][0]
    path.unlink()
    assert signature(job) == {}
    assert "nobody has signed" in signature(job, "mine")["findings"][0]


def test_a_certificate_that_is_taken_away_is_missed(job: Job) -> None:
    out = str(job.folder / "out.zarr")
    assert "plan, records and certificate" in signature(job, "mine")["detail"]
    (job.folder / "out.zarr/zmend/certificate.json").unlink()
    seal.put(out)
    assert signature(job, "mine")["findings"] == ["certificate: not what was signed"]
    told = list[dict]()
    run(propose(job.load(**{**PARTS, "certificate": 2})), on_event=told.append)
    assert any("the signature is taken away" in e.get("text", "") for e in told), "it is measured anew"
    assert "took it away" in signature(job)["detail"]


def test_a_signature_of_before_covers_what_it_did(job: Job) -> None:
    path = job.folder / "out.zarr/zmend/signature.json"
    body = {"schema": FIRST, **{k: v for k, v in json.loads(path.read_text()).items() if k in ("head", "records")}}
    made = private_key(str(job.folder / "mine.pem")).sign(canonical(body).encode()).hex()
    path.write_text(json.dumps({**body, "public": public_key(str(job.folder / "mine.pub")), "signature": made}))
    assert signature(job, "mine")["ok"] and signature(job, "mine")["detail"].startswith("plan and records,")


def test_what_changes_the_store_takes_the_signature_and_a_revert_brings_it_back(job: Job) -> None:
    path = job.folder / "out.zarr/zmend/signature.json"
    before = path.read_bytes()
    run(propose(job.load(**PARTS)))
    assert path.read_bytes() == before, "nothing was done"
    job.flags("3\n8\n")
    last = run(propose(job.load(**PARTS)))["run"]
    assert not path.exists()
    revert(str(job.folder / "out.zarr"), last)
    assert path.read_bytes() == before and signature(job, "mine")["ok"]


@pytest.mark.parametrize(("kind", "words"), [("x25519", "of another kind"), ("", "")])
def test_keys_that_are_none(kind: str, words: str, tmp_path: Path) -> None:
    if kind:
        key(tmp_path, "a", kind)
    else:
        (tmp_path / "a.pem").write_text("no key")
    for load, name in ((private_key, "a.pem"), (public_key, "a.pub")):
        with pytest.raises(UsageError, match="Ed25519 key in PEM") as e:
            load(str(tmp_path / name))
        assert words in e.value.why and "openssl genpkey" in e.value.do


def test_as_commands(job: Job) -> None:
    job.config(**PARTS)
    job.flags("3\n8\n")
    process = command("run", "zmend.yaml", "--sign", "nothing.pem", cwd=job.folder)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 2 and "no private Ed25519 key" in err
    assert len(Ledger(str(job.folder / "out.zarr")).ids()) == len(list((job.folder / "out.zarr/zmend/records").glob("??/*")))
    process = command("run", "zmend.yaml", "--sign", "mine.pem", cwd=job.folder)
    process.communicate(timeout=200)
    assert process.returncode == 0
    process = command("verify", "out.zarr", "--key", "mine.pub", "--json", cwd=job.folder)
    assert json.loads(process.communicate(timeout=200)[0])["ok"]
    process = command("verify", "out.zarr", "--key", "other.pub", cwd=job.folder)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 5 and "another key" in out
    assert "zmend run CONFIG --sign KEY signs it as it is" in err and "--redo" not in err


def test_whoever_takes_a_signature_away_says_so_and_so_do_status_and_verify(job: Job) -> None:
    out, told = str(job.folder / "out.zarr"), list[dict]()
    assert status(out)["signed"].startswith("by the owner of ")
    job.flags("3\n6\n")
    name = run(propose(job.load(**PARTS)), on_event=told.append)["run"]
    assert [e["text"] for e in told if "signature" in e.get("text", "")] == [
        "the signature is taken away: this run changes what it vouched for; zmend run CONFIG --sign KEY signs it again"
    ]
    assert status(out)["signed"] == f"no longer: run {name} took the signature away"
    assert signature(job)["ok"] and f"run {name} took it away" in signature(job)["detail"]
    (finding,) = signature(job, "mine")["findings"]
    assert f"run {name} took the signature away" in finding
    revert(out, name)
    assert status(out)["signed"].startswith("by the owner of ") and signature(job, "mine")["ok"]
    told.clear()
    run(propose(job.load(**PARTS)), on_event=told.append, sign=str(job.folder / "mine.pem"))
    told.clear()
    first = min(p.name for p in (job.folder / "out.zarr/zmend/runs").iterdir())
    last = revert(out, first, on_event=told.append)["run"]
    assert any("the signature is taken away" in e.get("text", "") for e in told)
    assert status(out)["signed"] == f"no longer: run {last} took the signature away"
