"""Neuroglancer precomputed and N5 as sources: the same voxels, the same restorations, the same promises as of Zarr."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts

from pipeline import tensors
from pipeline.box import Box
from pipeline.config import load
from pipeline.errors import VolumeError
from pipeline.files import Files
from pipeline.job import propose
from pipeline.planfile import current_plan
from pipeline.pyramid import mean_under
from pipeline.remerge import remerge
from pipeline.report import report
from pipeline.run import run
from pipeline.scan import scan
from pipeline.scene import address, dimensions
from pipeline.store import read_attrs
from pipeline.verify import verify
from pipeline.viewer import link
from pipeline.volume import Volume
from tests.foreigners import BLOCK, OFFSET, SHARDING, write_n5, write_precomputed
from tests.jobs import NM, Job, build, command, voxels
from tests.stores import noise, serve
from tests.test_interop import READERS

SHAPE = (10, 150, 140)
CHUNKS = BLOCK[::-1]
HOLE = Box((4, 64, 64), (8, 128, 128))  # a whole chunk
HOLE_KEYS = {"precomputed": "128-192_192-256_11-15", "n5": "1/1/1"}


def written(folder: Path, kind: str, data: np.ndarray | None = None) -> tuple[str, np.ndarray]:
    data = noise(SHAPE, "uint16" if kind.endswith("16") else "uint8") if data is None else data
    if kind.startswith("n5"):
        return write_n5(folder / "raw.n5", data, NM, compression="raw" if "raw" in kind else "gzip"), data
    encoding, sharding = "png" if "png" in kind else "raw", RAW if "rawshards" in kind else {} if "shards" in kind else None
    return write_precomputed(folder / "raw", [data], NM, encoding=encoding, sharding=sharding), data


KINDS = ("precomputed", "precomputed-png", "precomputed-16", "n5", "n5-raw-16", "precomputed-shards", "precomputed-rawshards-png-16")
RAW = {"minishard_index_encoding": "raw", "data_encoding": "raw", "preshift_bits": 0, "minishard_bits": 1}
GRAINS = {"precomputed-shards": (8, 128, 128), "precomputed-rawshards-png-16": (4, 64, 128)}  # two to the three bits, and to the one


@pytest.mark.parametrize("kind", KINDS)
def test_any_box_is_what_tensorstore_wrote(kind: str, tmp_path: Path) -> None:
    uri, data = written(tmp_path, kind)
    volume = pickle.loads(pickle.dumps(Volume.open(uri)))
    assert (volume.shape, volume.dtype, volume.chunks, volume.grain) == (SHAPE, data.dtype, CHUNKS, GRAINS.get(kind, CHUNKS))
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


@pytest.mark.parametrize("kind", sorted(GRAINS))
def test_a_missing_chunk_of_a_shard_is_never_mistaken_for_black_tissue(kind: str, tmp_path: Path) -> None:
    data = noise(SHAPE)
    data[:4] = 0
    data[:4, ::64, ::64] = 1  # black but for a voxel a chunk: tensorstore leaves out of shards what is black all over
    sharding = RAW if "raw" in kind else {}
    volume = Volume.open(write_precomputed(tmp_path / "raw", [data], NM, sharding=sharding))
    assert volume.absent(Box.of(SHAPE)) == ()
    for n, (cell, stored) in enumerate(objects := sorted(volume.objects())):
        assert (volume.key(cell), volume.cell(stored.key)) == (stored.key, cell)
        box, before = volume.box(cell), volume.inputs(volume.box(cell))
        Path(volume.files.uri, stored.key).unlink()
        assert volume.absent(box) == tuple(sorted(c & box for c in box.cells(CHUNKS)))
        assert sum(hole.size for hole in volume.absent(Box.of(SHAPE))) == sum(volume.box(c).size for c, _ in objects[: n + 1])
        assert volume.inputs(box) != before and not volume.read(box).any()
    hole = Box((4, 64, 64), (8, 128, 128))
    volume = Volume.open(write_precomputed(tmp_path / "hole", [data], NM, sharding=sharding, hole=hole))
    assert volume.absent(Box.of(SHAPE)) == (hole,) and volume.absent(Box((0, 64, 64), (4, 128, 128))) == ()


@pytest.mark.parametrize(
    ("bits", "shape"),
    [((0, 0, 9), SHAPE), ((9, 0, 0), SHAPE), ((0, 9, 0), SHAPE), ((2, 1, 4), (4, 64, 700)), ((1, 1, 3), (41, 64, 70)), ((1, 2, 9), (10, 150, 300)), ((0, 3, 3), (4, 270, 260))],
    ids=["a chunk a shard", "one minishard", "a chunk a minishard", "a row", "a column", "long", "flat"],
)  # fmt: skip
def test_every_chunk_of_every_cut_into_shards_is_where_tensorstore_put_it(bits: tuple[int, int, int], shape: tuple[int, int, int], tmp_path: Path) -> None:
    names = dict(zip(("preshift_bits", "minishard_bits", "shard_bits"), bits, strict=True))
    volume = Volume.open(write_precomputed(tmp_path / "raw", [np.full(shape, 7, np.uint8)], NM, sharding=names))
    assert volume.absent(Box.of(shape)) == () and set(volume.present()) == {c & Box.of(shape) for c in Box.of(shape).cells(volume.grain)}
    for n, chunk in enumerate(c & Box.of(shape) for c in Box.of(shape).cells(CHUNKS)):
        if n % 5 == 2:
            lone = write_precomputed(tmp_path / f"{n}", [np.full(shape, 7, np.uint8)], NM, sharding=names, hole=chunk)
            assert Volume.open(lone).absent(Box.of(shape)) == (chunk,)


@pytest.mark.parametrize("kind", ["precomputed", "n5", "precomputed-shards"])
def test_the_web_and_the_word_of_the_kind(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "RETRIES", {"max_retries": 1})
    uri, data = written(tmp_path, kind)
    with serve(tmp_path) as address:
        word = kind.split("-")[0]
        there = Volume.open(f"{word}://{address}/{Path(uri).name}")
        assert there.root.uri == f"{address}/{Path(uri).name}"
        np.testing.assert_array_equal(there.read(Box.of(SHAPE)), data)
        assert there.identity() == Volume.open(f"{word}://file://{uri}").identity()
        assert len(list(there.present())) == (2 * 2 * 2 if kind in GRAINS else 3 * 3 * 3) and there.absent(Box.of(SHAPE)) == ()
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


PATHS = {"precomputed": "raw", "shards": "raw_shards", "n5": "raw.n5", "zarr": "raw.zarr"}


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A damaged phantom as Zarr, as precomputed and as N5; each mended, as an overlay."""
    job = build(tmp_path_factory.mktemp("mended"))
    write_precomputed(job.folder / "raw", [job.damaged], NM)
    write_precomputed(job.folder / "raw_shards", [job.damaged], NM, sharding={})
    write_n5(job.folder / "raw.n5", job.damaged, NM)
    for name, path in (("zarr", "raw.zarr"), ("precomputed", "precomputed://raw"), ("shards", "raw_shards"), ("n5", "raw.n5")):
        run(propose(load(config(job, name, path))))
    return job


def config(job: Job, name: str, path: str, mode: str = "overlay", **parts: Any) -> Path:
    return job.config(f"{name}.out", name=f"{name}.yaml", volume={"path": path}, output={"mode": mode}, **parts)


@pytest.mark.parametrize("kind", ["precomputed", "shards", "n5"])
def test_it_is_mended_as_its_zarr_twin_is(kind: str, mended: Job) -> None:
    out, twin = str(mended.folder / f"{kind}.out"), str(mended.folder / "zarr.out")
    labels = voxels(out, "labels")
    np.testing.assert_array_equal(labels, voxels(twin, "labels"))
    np.testing.assert_array_equal(np.where(labels > 0, voxels(out, "overlay"), 0), np.where(labels > 0, voxels(twin, "overlay"), 0))
    found = verify(out, replay=100)
    assert found["ok"] and found["replayed"] == found["slabs"] and found["voxels_synthetic"] == mended.flagged.sum()
    again = run(propose(load(config(mended, kind, PATHS[kind]))))
    assert again["bytes_written"] == 0, "nothing is to do"
    told = report(out, str(mended.folder / f"{kind}.html"))
    assert told["pictured"] == told["defects"] > 3
    place = read_attrs(out)["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert place[0]["scale"] == pytest.approx(NM)
    shift = [o * s for o, s in zip(OFFSET[::-1], NM, strict=True)]
    assert (place[1]["translation"] if kind != "n5" else None) == (pytest.approx(shift) if kind != "n5" else None)


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


def test_neuroglancer_is_told_where_source_and_defects_lie(mended: Job) -> None:
    for kind, offset in (("precomputed", OFFSET), ("shards", OFFSET), ("n5", (0, 0, 0))):
        out, to = str(mended.folder / f"{kind}.out"), mended.folder / f"{kind}.json"
        link(out, str(to), base_url="https://a.b/c.zarr", source_url="https://a.b/raw")
        state = json.loads(to.read_text())
        layers = {layer["name"]: layer for layer in state["layers"]}
        scheme = "n5" if kind == "n5" else "precomputed"
        assert layers["source"]["source"]["url"] == f"{scheme}://https://a.b/raw/"
        told = layers["source"]["source"]["transform"]
        assert told["matrix"] == [[1, 0, 0, -0.5], [0, 1, 0, -0.5], [0, 0, 1, -0.5]], "from the corners of voxels to their middles"
        assert list(told["outputDimensions"]) == ["x", "y", "z"] and told["outputDimensions"]["z"] == [pytest.approx(45e-9), "m"]
        first = layers["defects"]["annotations"][0]
        assert first["pointA"] == pytest.approx([-0.5 + offset[0], -0.5 + offset[1], 0.5 + offset[2]]), "section 1 is missing"
        assert state["position"][2] == pytest.approx(1 + offset[2])
        assert "transform" not in layers["restored"]["source"], "an OME image says itself where it lies"


def test_a_coarser_level_is_moved_by_half_of_its_own_voxels(tmp_path: Path) -> None:
    uri = write_precomputed(tmp_path / "raw", [noise((8, 128, 128)), noise((8, 64, 64))], NM, offset=(0, 0, 0))
    volume = Volume.open(uri, level=1)
    told = address(volume, "https://h/raw", dimensions(volume, volume.voxel_nm))["transform"]
    assert told["outputDimensions"]["x"] == [pytest.approx(4.6e-9), "m"], "of the finest level, of which a transform speaks"
    assert [row[3] for row in told["matrix"]] == [-1.0, -1.0, -0.5]


@pytest.mark.parametrize("kind", ["precomputed", "shards", "n5"])
def test_a_merged_volume_is_its_zarr_twins(kind: str, mended: Job, tmp_path: Path) -> None:
    twin = mended.folder / "twin.out"
    run(propose(load(config(mended, "twin", "raw.zarr", "volume"))))
    out = mended.folder / f"{kind}.whole.out"
    proposal = propose(load(made := config(mended, f"{kind}.whole", PATHS[kind], "volume")))
    assert proposal.plan.header["totals"]["bytes_to_merge"] == 2 * mended.damaged.nbytes, "all of it is written"
    assert proposal.load.link_chunks == 0 < proposal.load.merge_chunks
    run(proposal)
    np.testing.assert_array_equal(voxels(out), voxels(twin))
    np.testing.assert_array_equal(voxels(out, "labels"), voxels(twin, "labels"))
    found = verify(str(out), replay=2)
    assert found["ok"] and found["voxels_changed_outside_mask"] == 0 and found["voxels_synthetic"] == mended.flagged.sum()
    before = {p: p.stat().st_mtime_ns for p in (out / "0").rglob("*") if p.is_file()}
    assert remerge(str(out))["bytes_written"] == 0, "nothing is to do"
    assert run(propose(load(made)))["bytes_written"] == 0
    assert before == {p: p.stat().st_mtime_ns for p in (out / "0").rglob("*") if p.is_file()}
    victim = Volume.open(out).key((1, 1, 1))
    (out / "0" / victim).unlink()
    assert not verify(str(out))["ok"]
    assert remerge(str(out))["chunks_rewritten"] == 1 and verify(str(out))["ok"]


def test_an_overlay_is_completed_to_a_pyramid(mended: Job, tmp_path: Path) -> None:
    """Levels, their labels, absent chunks and 16 bits; then the source grows."""
    fine = mended.damaged[:, :256, :256].astype("uint16") * 257
    coarse = mean_under(fine, (1, 2, 2))
    hole = Box((8, 192, 64), (12, 256, 128))
    write_precomputed(tmp_path / "raw", [fine, coarse], NM, sharding={}, hole=hole)
    (tmp_path / "flags.csv").write_text("z_start,z_stop,class\n5,6,missing\n")
    job = Job(tmp_path, fine, fine, fine > 0)
    made = job.config(volume={"path": "raw", "missing_chunks": "background"}, output={"mode": "overlay"})
    run(propose(load(made)))
    out = str(tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr/0").exists()
    remerge(out)
    found, levels = verify(out), [Volume.open(out, level=i) for i in (0, 1)]
    assert found["ok"] and found["voxels_synthetic"] == 256 * 256
    assert [v.shape for v in levels] == [fine.shape, coarse.shape] and levels[0].absent(Box.of(fine.shape)) == (hole,)
    kept = np.delete(np.arange(len(fine)), 5)
    due = fine.copy()
    due[hole.within(Box.of(fine.shape))] = 0
    np.testing.assert_array_equal(levels[0].read(Box.of(fine.shape))[kept], due[kept])
    np.testing.assert_array_equal(levels[1].read(Box.of(coarse.shape))[kept], coarse[kept])
    more = np.concatenate([fine, fine[:3]])
    shutil.rmtree(tmp_path / "raw")
    write_precomputed(tmp_path / "raw", [more, mean_under(more, (1, 2, 2))], NM, sharding={})
    run(propose(load(made)))
    assert verify(out)["ok"] and Volume.open(out, level=1).shape == (19, 128, 128)


def test_it_is_killed_and_goes_on(mended: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The merge dies half-way through the source's chunks."""
    made = config(mended, "killed", "raw_shards", "volume", certificate=0)
    monkeypatch.setenv("ZMEND_FAILPOINTS", "merge=kill@40")
    process = command("run", made.name, cwd=mended.folder)
    process.communicate(timeout=200)
    monkeypatch.delenv("ZMEND_FAILPOINTS")
    written = len(list((mended.folder / "killed.out/0/c").rglob("*/*/*")))
    assert process.returncode != 0 and 0 < written < len(list(Volume.open(mended.folder / "raw").objects()))
    run(propose(load(made)))
    assert verify(str(mended.folder / "killed.out"))["ok"]
    np.testing.assert_array_equal(voxels(mended.folder / "killed.out", "labels"), voxels(mended.folder / "zarr.out", "labels"))


@pytest.mark.parametrize("reader", READERS)
def test_other_readers_accept_a_merged_volume_of_such_a_source(reader: str, mended: Job) -> None:
    out = mended.folder / "readers.out"
    if not out.exists():
        run(propose(load(config(mended, "readers", "raw", "volume", certificate=0))))
    image, labels = READERS[reader](out, "0.5")
    np.testing.assert_array_equal(np.asarray(image.levels[0]), voxels(out))
    np.testing.assert_array_equal(np.asarray(labels.levels[0]), voxels(out, "labels"))


def test_links_to_what_is_not_zarr_are_refused_before_anything_is_made(mended: Job) -> None:
    whole = mended.config("whole.out", name="whole.yaml", volume={"path": "raw"}, output={"clone": "link"})
    with pytest.raises(VolumeError, match=r"no links can be made to a source that is precomputed(.|\n)*not Zarr(.|\n)*mode: overlay"):
        propose(load(whole))
    assert not (mended.folder / "whole.out").exists()


def test_without_tensorstore_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, _ = written(tmp_path, "n5")
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(VolumeError, match=r"cannot read precomputed and N5 volumes(.|\n)*pip install \"zmend\[precomputed\]\""):
        Volume.open(uri)


def test_what_is_not_read_is_refused_by_name(tmp_path: Path) -> None:
    data = noise(SHAPE)
    for n, odd in enumerate(({"hash": "murmurhash3_x86_128"}, {"preshift_bits": 0, "minishard_bits": 1, "shard_bits": 1})):
        with pytest.raises(VolumeError, match=r"this kind of precomputed shards is not read(.|\n)*hash identity, bits for all chunks; here .* of 6"):
            Volume.open(write_precomputed(tmp_path / f"odd{n}", [data], NM, sharding=odd))
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
     (lambda s: s.update(num_channels=3), r"axis c is longer than 1"),
     (lambda s: s["scales"][0].update(sharding={"@type": "neuroglancer_uint64_sharded_v1"}), r"metadata cannot be understood(.|\n)*minishard_bits"),
     (lambda s: s["scales"][0].update(sharding=SHARDING | {"shard_bits": 10**9}), r"more bits than a number has")],
    ids=["scales", "size", "outside", "absurd", "encoding", "channels", "bits", "too many bits"],
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


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("how", ["cut", "beyond", "garbled"])
def test_a_damaged_index_of_a_shard_is_no_absent_chunk(how: str, encoding: str, tmp_path: Path) -> None:
    uri = write_precomputed(tmp_path / "raw", [noise(SHAPE)], NM, sharding={"minishard_index_encoding": encoding})
    volume = Volume.open(uri)
    shard = Path(volume.files.uri, volume.key((0, 0, 0)))
    raw = shard.read_bytes()
    first, last = np.frombuffer(raw[:16], "<u8")  # where the first minishard's index lies, after four entries
    spoiled = {"cut": raw[:40], "beyond": raw[:8] + b"\xff" * 8 + raw[16:], "garbled": raw[: 64 + int(first)] + b"?" * 13 + raw[64 + int(first) + 13 :]}
    shard.write_bytes(spoiled[how])
    if (how, encoding) == ("garbled", "raw"):
        assert first < last and volume.absent(volume.box((0, 0, 0))), "numbers of chunks that are nowhere: none is believed to be there"
        return
    with pytest.raises(VolumeError, match=rf"index of a shard is damaged or cut short(.|\n)*{shard.name}"):
        volume.absent(volume.box((0, 0, 0)))


def test_a_folder_that_is_nothing_still_says_so(tmp_path: Path) -> None:
    for name in ("info", "attributes.json"):
        (tmp_path / name).write_text('{"something": "else"}')
    with pytest.raises(VolumeError, match="this folder is not Zarr"):
        Volume.open(tmp_path)
