"""Neuroglancer precomputed and N5 as sources: the same voxels, the same restorations, the same promises as of Zarr."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts

from pipeline import tensors
from pipeline.box import Box
from pipeline.config import load
from pipeline.errors import UsageError, VolumeError
from pipeline.files import Files
from pipeline.job import propose
from pipeline.planfile import current_plan
from pipeline.remerge import remerge
from pipeline.report import report
from pipeline.run import run
from pipeline.scan import scan
from pipeline.store import read_attrs
from pipeline.verify import verify
from pipeline.viewer import link
from pipeline.volume import Volume
from tests.foreigners import BLOCK, OFFSET, write_n5, write_precomputed
from tests.jobs import NM, Job, build, command, voxels
from tests.stores import noise, serve

SHAPE = (10, 150, 140)
CHUNKS = BLOCK[::-1]
HOLE = Box((4, 64, 64), (8, 128, 128))  # a whole chunk
HOLE_KEYS = {"precomputed": "128-192_192-256_11-15", "n5": "1/1/1"}


def written(folder: Path, kind: str, data: np.ndarray | None = None) -> tuple[str, np.ndarray]:
    data = noise(SHAPE, "uint16" if kind.endswith("16") else "uint8") if data is None else data
    if kind.startswith("n5"):
        return write_n5(folder / "raw.n5", data, NM, compression="raw" if "raw" in kind else "gzip"), data
    encoding = "png" if "png" in kind else "raw"
    return write_precomputed(folder / "raw", [data], NM, encoding=encoding), data


KINDS = ("precomputed", "precomputed-png", "precomputed-16", "n5", "n5-raw-16")


@pytest.mark.parametrize("kind", KINDS)
def test_any_box_is_what_tensorstore_wrote(kind: str, tmp_path: Path) -> None:
    uri, data = written(tmp_path, kind)
    volume = pickle.loads(pickle.dumps(Volume.open(uri)))
    assert (volume.shape, volume.dtype, volume.chunks, volume.grain) == (SHAPE, data.dtype, CHUNKS, CHUNKS)
    assert volume.voxel_nm == pytest.approx(NM)
    for box in (Box.of(SHAPE), Box((0, 0, 0), (1, 1, 1)), Box((3, 60, 1), (9, 150, 139))):
        np.testing.assert_array_equal(volume.read(box), data[box.within(Box.of(SHAPE))])
    assert volume.bytes_read == data.nbytes + data.itemsize * (1 + 6 * 90 * 138)
    assert {Path(s.key) for _, s in volume.objects()} == {p.relative_to(volume.files.uri) for p in Path(volume.files.uri).rglob("*") if p.is_file() and p.suffix != ".json"}


@pytest.mark.parametrize("kind", ["precomputed", "n5"])
def test_missing_chunk_is_never_mistaken_for_black_tissue(kind: str, tmp_path: Path) -> None:
    data = noise(SHAPE)
    data[:4] = 0  # black, and there
    uri, _ = written(tmp_path, kind, data)
    volume = Volume.open(uri)
    assert volume.absent(Box.of(SHAPE)) == ()
    before = volume.inputs(HOLE)
    Path(volume.files.uri, HOLE_KEYS[kind]).unlink()
    assert volume.absent(Box.of(SHAPE)) == (HOLE,)
    assert volume.inputs(HOLE) != before
    assert not volume.read(HOLE).any()


@pytest.mark.parametrize("kind", ["precomputed", "n5"])
def test_the_web_and_the_word_of_the_kind(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "RETRIES", {"max_retries": 1})
    uri, data = written(tmp_path, kind)
    with serve(tmp_path) as address:
        there = Volume.open(f"{kind}://{address}/{Path(uri).name}")
        assert there.root.uri == f"{address}/{Path(uri).name}"
        np.testing.assert_array_equal(there.read(Box.of(SHAPE)), data)
        assert there.identity() == Volume.open(f"{kind}://file://{uri}").identity()
        assert len(list(there.present())) == 3 * 3 * 3
    with pytest.raises(OSError, match=r"no answer|Connect|connect"):
        there.absent(HOLE)
    with pytest.raises(OSError, match=r"onnect"):  # worth another try, and no damaged chunk
        there.read(HOLE)


def test_levels_of_precomputed(tmp_path: Path) -> None:
    fine, coarse = noise((8, 128, 128)), noise((8, 64, 64), seed=1)
    uri = write_precomputed(tmp_path / "raw", [fine, coarse], NM)
    volume = Volume.open(uri, level=1)
    np.testing.assert_array_equal(volume.read(Box.of((8, 64, 64))), coarse)
    assert volume.voxel_nm == pytest.approx((NM[0], 2 * NM[1], 2 * NM[2]))
    assert [v.shape for v in Volume.open(uri).pyramid()] == [fine.shape, coarse.shape]
    with pytest.raises(VolumeError, match=r"no level 2(.|\n)*0 \(s0 \(4.6x4.6x45 nm xyz\)\), 1"):
        Volume.open(uri, level=2)


@pytest.mark.parametrize(
    ("attributes", "second"),
    [({"pixelResolution": {"unit": "um", "dimensions": [0.0046, 0.0046, 0.045]}, "downsamplingFactors": [2, 2, 1]}, (45.0, 9.2, 9.2)),
     ({"pixelResolution": [4.6, 4.6, 45.0]}, (45.0, 4.6, 4.6)),
     ({}, None)],
    ids=["viewer", "plain", "none"],
)  # fmt: skip
def test_levels_of_n5(attributes: dict[str, Any], second: tuple[float, float, float] | None, tmp_path: Path) -> None:
    first = {k: v for k, v in attributes.items() if k != "downsamplingFactors"}
    write_n5(tmp_path / "raw/s0", noise((8, 128, 128)), None, **first)
    write_n5(tmp_path / "raw/s1", coarse := noise((8, 64, 64), seed=1), None, **attributes)
    (tmp_path / "raw/attributes.json").write_text('{"n5": "4.0.0"}')
    volume = Volume.open(tmp_path / "raw", level=1)
    np.testing.assert_array_equal(volume.read(Box.of((8, 64, 64))), coarse)
    assert volume.voxel_nm == (None if second is None else pytest.approx(second))
    alone = Volume.open(tmp_path / "raw/s1")
    assert alone.voxel_nm == volume.voxel_nm and alone.shape == (8, 64, 64)


def test_n5_that_tells_another_order_of_axes(tmp_path: Path) -> None:
    data = noise((12, 20, 30))
    write_n5(tmp_path / "raw.n5", data, None)
    path = tmp_path / "raw.n5/attributes.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"axes": ["z", "y", "x"], "units": ["nm"] * 3, "resolution": [45, 4, 8]}))
    volume = Volume.open(tmp_path / "raw.n5")
    assert volume.shape == (30, 20, 12) and volume.voxel_nm == (45.0, 4.0, 8.0)
    np.testing.assert_array_equal(volume.read(Box.of(volume.shape)), data.transpose())


@pytest.mark.parametrize("kind", ["precomputed", "n5"])
def test_a_volume_that_grows_stays_itself(kind: str, tmp_path: Path) -> None:
    small, large = (Volume.open(written(tmp_path / str(z), kind, noise((z, 150, 140)))[0]) for z in (10, 17))
    assert small.identity() == large.identity() and small.fingerprint() != large.fingerprint()
    other = Volume.open(written(tmp_path / "other", kind, noise((10, 150, 140), "uint16"))[0])
    wider = Volume.open(written(tmp_path / "wider", kind, noise((10, 150, 141)))[0])
    assert small.identity() not in (other.identity(), wider.identity())


def test_a_public_bucket_is_asked_without_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    spec = {"driver": "n5", "kvstore": tensors._s3("public", "deep/raw")}
    assert spec["kvstore"] == {"driver": "s3", "bucket": "public", "path": "deep/raw/", "aws_credentials": {"type": "anonymous"}}
    assert ts.Spec(spec).to_json()["driver"] == "n5", "tensorstore understands it"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert tensors._s3("mine", "") == {"driver": "s3", "bucket": "mine", "path": "", "endpoint": "http://127.0.0.1:1", "aws_region": "us-east-1"}


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A damaged phantom as Zarr, as precomputed and as N5; each mended, as an overlay."""
    job = build(tmp_path_factory.mktemp("mended"))
    write_precomputed(job.folder / "raw", [job.damaged], NM)
    write_n5(job.folder / "raw.n5", job.damaged, NM)
    for name, path in (("zarr", "raw.zarr"), ("precomputed", "precomputed://raw"), ("n5", "raw.n5")):
        run(propose(load(config(job, name, path))))
    return job


def config(job: Job, name: str, path: str, **parts: Any) -> Path:
    return job.config(f"{name}.out", name=f"{name}.yaml", volume={"path": path}, output={"mode": "overlay"}, **parts)


@pytest.mark.parametrize("kind", ["precomputed", "n5"])
def test_it_is_mended_as_its_zarr_twin_is(kind: str, mended: Job) -> None:
    out, twin = str(mended.folder / f"{kind}.out"), str(mended.folder / "zarr.out")
    labels = voxels(out, "labels")
    np.testing.assert_array_equal(labels, voxels(twin, "labels"))
    np.testing.assert_array_equal(np.where(labels > 0, voxels(out, "overlay"), 0), np.where(labels > 0, voxels(twin, "overlay"), 0))
    found = verify(out, replay=100)
    assert found["ok"] and found["replayed"] == found["slabs"] and found["voxels_synthetic"] == mended.flagged.sum()
    again = run(propose(load(config(mended, kind, "raw.n5" if kind == "n5" else "raw"))))
    assert again["bytes_written"] == 0, "nothing is to do"
    told = report(out, str(mended.folder / f"{kind}.html"))
    assert told["pictured"] == told["defects"] > 3
    place = read_attrs(out)["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert place[0]["scale"] == pytest.approx(NM)
    shift = [o * s for o, s in zip(OFFSET[::-1], NM, strict=True)]
    assert (place[1]["translation"] if kind == "precomputed" else None) == (pytest.approx(shift) if kind == "precomputed" else None)


def test_workers_in_processes_of_their_own(mended: Job) -> None:
    path = config(mended, "two", "raw", site={"workers": 2}, certificate=0)
    process = command("run", path.name, "--json", cwd=mended.folder)
    text, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert json.loads(text)["done"] == json.loads(text)["slabs"] > 4
    np.testing.assert_array_equal(voxels(mended.folder / "two.out", "labels"), voxels(mended.folder / "zarr.out", "labels"))


def test_what_a_slab_was_made_from_is_watched(mended: Job, tmp_path: Path) -> None:
    write_precomputed(mended.folder / "moving", [mended.damaged], NM)
    made = config(mended, "moving", "moving")
    first = run(propose(load(made)))
    out, plan = str(mended.folder / "moving.out"), current_plan(str(mended.folder / "moving.out"))
    source = Volume.open(mended.folder / "moving")
    near = plan.slabs[0].read.start
    key = source.keys(Box(near, (near[0] + 1, near[1] + 1, near[2] + 1)))[0]
    chunk = Path(source.files.uri, key)
    chunk.write_bytes(bytes(255 - b for b in chunk.read_bytes()))
    assert {c["name"] for c in verify(out)["checks"] if not c["ok"]} == {"sources"}
    again = propose(load(made))
    assert 0 < len(set(again.plan.slabs.ids) - set(plan.slabs.ids)) < len(plan.slabs), "those that read the chunk, no other"
    assert run(again)["done"] == first["done"]
    assert verify(out)["ok"]


@pytest.mark.parametrize("kind", ["precomputed", "n5"])
def test_a_scan_finds_what_it_finds_in_zarr(kind: str, mended: Job, tmp_path: Path) -> None:
    rows = [
        scan(str(mended.folder / path), str(tmp_path / f"{n}.csv"))["rows"]
        for n, path in enumerate(("raw.zarr", "raw.n5" if kind == "n5" else "raw"))
    ]
    assert rows[0] and [(r["z_start"], r["class"]) for r in rows[0]] == [(r["z_start"], r["class"]) for r in rows[1]]


def test_neuroglancer_is_not_given_a_scene_that_lies(mended: Job) -> None:
    with pytest.raises(UsageError, match=r"zmend view shows no source that is precomputed(.|\n)*as two layers"):
        link(str(mended.folder / "precomputed.out"), str(mended.folder / "scene.json"), base_url="https://a.b/c.zarr", source_url="")


def test_a_merge_is_refused_before_anything_is_made(mended: Job) -> None:
    whole = mended.config("whole.out", name="whole.yaml", volume={"path": "raw"})
    with pytest.raises(VolumeError, match=r"no merged volume can be made of a source that is precomputed(.|\n)*not Zarr(.|\n)*mode: overlay"):
        propose(load(whole))
    assert not (mended.folder / "whole.out").exists()
    with pytest.raises(VolumeError, match="no merged volume can be made of a source that is n5"):
        remerge(str(mended.folder / "n5.out"))
    assert verify(str(mended.folder / "n5.out"))["ok"]


def test_without_tensorstore_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, _ = written(tmp_path, "n5")
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(VolumeError, match=r"cannot read precomputed and N5 volumes(.|\n)*pip install \"zmend\[precomputed\]\""):
        Volume.open(uri)


def test_what_is_not_read_is_refused_by_name(tmp_path: Path) -> None:
    data = noise(SHAPE)
    with pytest.raises(VolumeError, match=r"in shards are not read(.|\n)*absent or black"):
        Volume.open(write_precomputed(tmp_path / "sharded", [data], NM, sharded=True))
    wrapped = write_precomputed(tmp_path / "wrapped", [data], NM)
    for chunk in Path(wrapped, "s0").iterdir():
        chunk.rename(f"{chunk}.gz")
    with pytest.raises(VolumeError, match=r"names of CloudVolume's own(.|\n)*gunzip"):
        Volume.open(wrapped)
    with pytest.raises(VolumeError, match=r"voxels of type uint32 are not supported"):
        Volume.open(write_n5(tmp_path / "u4", data.astype("uint32"), NM))
    with pytest.raises(VolumeError, match=r"precomputed volumes are only read"):
        Volume.open(write_precomputed(tmp_path / "plain", [data], NM), writable=True)
    with pytest.raises(VolumeError, match=r"from a folder, from S3 and from the web(.|\n)*storage.googleapis.com"):
        fake = Files("memory://plain")
        for stored in Files(str(tmp_path / "plain")).walk():
            fake.put(stored.key, (tmp_path / "plain" / stored.key).read_bytes())
        Volume.open("precomputed://memory://plain")


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda s: s.update(scales=3), r"own document cannot be understood"),
     (lambda s: s["scales"][0].pop("size"), r"own document cannot be understood(.|\n)*size"),
     (lambda s: s["scales"][0].update(key="../elsewhere"), r"level '../elsewhere' lies outside the volume"),
     (lambda s: s["scales"][0].update(size=[2**40, 2**40, 2**40]), r"an array with shape .* is refused"),
     (lambda s: s["scales"][0].update(encoding="unheard"), r"tensorstore cannot open the array(.|\n)*encoding"),
     (lambda s: s.update(num_channels=3), r"axis c is longer than 1")],
    ids=["scales", "size", "outside", "absurd", "encoding", "channels"],
)  # fmt: skip
def test_documents_that_make_no_sense_are_refused(change: Any, words: str, tmp_path: Path) -> None:
    info = Path(write_precomputed(tmp_path / "raw", [noise(SHAPE)], NM), "info")
    said = json.loads(info.read_text())
    change(said)
    info.write_text(json.dumps(said))
    with pytest.raises(VolumeError, match=words):
        Volume.open(tmp_path / "raw")


@pytest.mark.parametrize("kind", ["precomputed", "n5"])
def test_a_damaged_chunk_is_named(kind: str, tmp_path: Path) -> None:
    uri, _ = written(tmp_path, kind)
    volume = Volume.open(uri)
    Path(volume.files.uri, HOLE_KEYS[kind]).write_bytes(b"broken")
    with pytest.raises(VolumeError, match=rf"chunk \[4:8, 64:128, 64:128\] cannot be decoded(.|\n)*{HOLE_KEYS[kind]}"):
        volume.read(Box.of(SHAPE))


def test_a_folder_that_is_nothing_still_says_so(tmp_path: Path) -> None:
    for name in ("info", "attributes.json"):
        (tmp_path / name).write_text('{"something": "else"}')
    with pytest.raises(VolumeError, match="this folder is not Zarr"):
        Volume.open(tmp_path)
