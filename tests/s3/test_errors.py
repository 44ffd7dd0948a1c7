"""What a bucket can refuse, in words, before anything is spent."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.box import Box
from pipeline.errors import FlagError, VolumeError
from pipeline.files import Files
from pipeline.flagfile import load
from pipeline.foundation import create_output
from pipeline.volume import Volume
from tests.jobs import command
from tests.s3.conftest import READER, Server
from tests.s3.faults import faulty
from tests.s3.jobs import build, document, upload


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    build(folder)
    return folder


@pytest.fixture
def place(folder: Path, bucket: str) -> str:
    upload(folder, f"s3://{bucket}/project")
    return f"s3://{bucket}/project"


def make(out: str, source: str) -> None:
    create_output(out, Volume.open(source), mode="volume", chunk_yx=32, shard_yx=None, extra={})


def test_a_bucket_that_is_not_there(place: str) -> None:
    with pytest.raises(VolumeError, match="there is no such bucket") as e:
        Volume.open("s3://nobodys-bucket/raw.zarr")
    assert e.value.where == "s3://nobodys-bucket"
    assert "AWS_ENDPOINT_URL" in e.value.do
    with pytest.raises(VolumeError, match="there is no such bucket"):
        make("s3://nobodys-bucket/out.zarr", f"{place}/raw.zarr")
    with pytest.raises(VolumeError, match="there is no such bucket"):
        Files("s3://nobodys-bucket").put("x", b"1")


def test_a_key_that_is_not_there(place: str) -> None:
    with pytest.raises(VolumeError, match="there is no Zarr volume here"):
        Volume.open(f"{place}/row.zarr")
    with pytest.raises(VolumeError, match="this is a file"):
        Volume.open(f"{place}/flags.csv")
    with pytest.raises(FlagError, match="the flags file cannot be read"):
        load(f"{place}/flogs.csv", shape=(12, 96, 96))


def test_wrong_credentials(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrongly-typed")
    with pytest.raises(VolumeError, match="does not know these credentials") as e:
        Volume.open(f"{place}/raw.zarr")
    assert "AWS_SECRET_ACCESS_KEY" in e.value.do
    assert "wrongly-typed" not in str(e.value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(VolumeError, match="does not know these credentials"):
        Volume.open(f"{place}/raw.zarr")


def test_a_bucket_that_may_only_be_read(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in READER.items():
        monkeypatch.setenv(name, value)
    assert Volume.open(f"{place}/raw.zarr").shape == (12, 96, 96)
    with pytest.raises(VolumeError, match="refuses to write") as e:
        make(f"{place}/out.zarr", f"{place}/raw.zarr")
    assert "s3:PutObject" in e.value.do
    with pytest.raises(VolumeError, match="refuses to write"):
        Files(place).create("x", b"1")
    with pytest.raises(VolumeError, match="refuses to delete"):
        Files(place).delete("flags.csv")
    assert Files(f"{place}/out.zarr").names() is None


def test_the_command_says_so_and_leaves_nothing(place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in READER.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "zmend.yaml").write_text(yaml.safe_dump(document(place)))
    process = command("run", "zmend.yaml", cwd=tmp_path)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 3
    assert "the object store refuses to write" in err and "s3:PutObject" in err
    assert Files(f"{place}/out.zarr").names() is None


def test_links_are_for_disks(place: str) -> None:
    from pipeline.config import check
    from pipeline.job import propose
    from pipeline.run import run

    with pytest.raises(VolumeError, match="cannot be hard-linked") as e:
        run(propose(check(document(place, output={"clone": "link"}))))
    assert e.value.why == "an object store has no links"
    assert "clone: auto or copy" in e.value.do


def test_the_output_may_not_lie_in_the_source(place: str) -> None:
    with pytest.raises(VolumeError, match="the output lies in the source"):
        make(f"{place}/raw.zarr/out", f"{place}/raw.zarr")
    with pytest.raises(VolumeError, match="no zmend store"):
        make(f"{place}/mask.zarr", f"{place}/raw.zarr")


def test_a_server_that_does_not_answer_is_worth_another_try(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import bucket

    monkeypatch.setitem(bucket.RETRY, "max_retries", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(OSError, match="cannot read"):
        Files("s3://anywhere/v").read("x")


def test_voxels_that_cannot_be_had_now_are_worth_another_try(place: str, s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """OSError, which the driver counts as transient; not VolumeError, which ends a run; and never zeros."""
    from pipeline import bucket

    monkeypatch.setitem(bucket.RETRY, "max_retries", 1)
    monkeypatch.setattr(bucket, "TRIES", 2)
    with faulty(s3.port, share=0.0) as (endpoint, faults):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        volume, box = Volume.open(f"{place}/mask.zarr", writable=True), Box((7, 0, 0), (8, 96, 96))
        voxels = volume.read(box)
        assert voxels.any()
        faults.share = 1.0
        with pytest.raises(OSError, match="cannot read"):
            volume.read(box)
        with pytest.raises(OSError, match="cannot write"):
            volume.write(box, voxels)
        with pytest.raises(OSError, match="cannot read"):
            volume.absent(box)


def test_chunks_that_may_not_be_written(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in READER.items():
        monkeypatch.setenv(name, value)
    volume, box = Volume.open(f"{place}/mask.zarr", writable=True), Box((7, 0, 0), (8, 96, 96))
    with pytest.raises(VolumeError, match="refuses to write"):
        volume.write(box, volume.read(box))


def test_an_output_that_is_neither_folder_nor_bucket(place: str) -> None:
    with pytest.raises(VolumeError, match="outputs go to a folder or to an S3 bucket") as e:
        make("memory://out", f"{place}/raw.zarr")
    assert "s3://bucket/key" in e.value.do
