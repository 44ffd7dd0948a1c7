"""What SECURITY.md promises."""

from __future__ import annotations

import ast
import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pytest
from numcodecs import Blosc, Zstd

from pipeline.box import Box
from pipeline.errors import PlanChangedError, VolumeError
from pipeline.files import Files
from pipeline.layout import parse_layout
from pipeline.lock import StoreLock
from pipeline.planfile import current_plan
from pipeline.volume import Volume
from tests import golden
from tests.jobs import ROOT, build, command, tree

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "os.system", "os.popen", "torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle"}


def faults(text: str) -> list[str]:
    """What in a module could run code that it reads."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found.append(node.module or "")
        elif isinstance(node, ast.Call):
            found += [ast.unparse(node.func)] * (ast.unparse(node.func) in FORBIDDEN_CALLS)
            loads = ast.unparse(node.func).endswith(".load")
            unsafe = {"shell", "allow_pickle"} if loads else {"shell"}
            found += [f"{k.arg}={ast.unparse(k.value)}" for k in node.keywords if k.arg in unsafe and ast.unparse(k.value) != "False"]
    return found


@pytest.mark.parametrize("path", sorted(p for package in ("pipeline", "model", "deploy") for p in (ROOT / package).rglob("*.py")), ids=lambda p: p.name)
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    assert faults(path.read_text()) == []


@pytest.mark.parametrize("line", ["import pickle", "from cloudpickle import loads", "torch.load(f)", "np.load(f, allow_pickle=True)", "yaml.load(f, Loader)", "eval(x)", "subprocess.run(x, shell=True)"])
def test_the_scan_finds_what_it_forbids(line: str) -> None:
    assert faults(line)


@pytest.mark.parametrize("folder", ["zmend/overlay", "labels", "0", "zmend/records", "0/c/0", "labels/synthetic/0/c/*"])
def test_a_folder_that_leads_elsewhere_is_refused_before_anything_is_written(folder: str, tmp_path: Path) -> None:
    out = golden.unpack("v1-volume", tmp_path)
    victim, (place, *_) = tmp_path / "victim", sorted(out.glob(folder))
    place.rename(victim)
    place.symlink_to(victim)
    (victim / "half.partial").write_text("somebody's")
    before = tree(tmp_path)
    with pytest.raises(VolumeError, match="a folder of the store is a symbolic link"), StoreLock(str(out)):
        pass
    assert tree(tmp_path) == before


def test_a_store_may_be_a_link_itself(tmp_path: Path) -> None:
    out = golden.unpack("v1-volume", tmp_path)
    (tmp_path / "here.zarr").symlink_to(out)
    with StoreLock(str(tmp_path / "here.zarr")):
        pass


def test_a_run_into_a_store_whose_volume_is_a_link_to_the_source(tmp_path: Path) -> None:
    """The worst case: what is merged would land in the source."""
    job = build(tmp_path, (12, 128, 128))
    out = job.folder / "out.zarr"
    job.run(recipe={"seed": 1}, certificate=0)
    (out / "0").rename(tmp_path / "aside")
    (out / "0").symlink_to(job.raw)
    before = tree(job.raw)
    with pytest.raises(VolumeError, match="symbolic link"):
        job.run(recipe={"seed": 2}, certificate=0)
    assert tree(job.raw) == before


@pytest.mark.parametrize("head", ["../../../etc/passwd", "/etc/passwd", "a" * 63, {"a": 1}])
def test_a_plan_is_named_by_its_hash_alone(head: object, tmp_path: Path) -> None:
    out = golden.unpack("v1-volume", tmp_path)
    body = json.loads((out / "zarr.json").read_text())
    body["attributes"]["zmend"]["head"] = head
    (out / "zarr.json").write_text(json.dumps(body))
    with pytest.raises(PlanChangedError, match="the store names no plan"):
        current_plan(str(out))


def v3(shape: list, chunks: list, dtype: str = "uint8") -> dict:
    grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
    return {"zarr_format": 3, "shape": shape, "data_type": dtype, "fill_value": 0, "chunk_grid": grid, "codecs": [{"name": "bytes"}]}


@pytest.mark.parametrize(
    ("shape", "chunks", "words"),
    [
        ([9, 10**6, 10**6], [1, 10**5, 10**5], "bytes are refused"),
        ([10**9, 10**9, 10**9], [1, 64, 64], "shape (1000000000, 1000000000, 1000000000) is refused"),
        ([9, 64, 64], [1, 0, 64], "chunks (1, 0, 64) is refused"),
        ([9, 64, 64], [1, -64, 64], "is refused"),
        ([9, 64, 64], [1, 64], "is refused"),
        ([0, 64, 64], [1, 64, 64], "shape (0, 64, 64) is refused"),
        ([9, 64, 64], [1, 6.4, 64], "is refused"),
    ],
)
def test_absurd_sizes_are_refused_as_declared(shape: list, chunks: list, words: str) -> None:
    with pytest.raises(VolumeError) as error:
        parse_layout(v3(shape, chunks), {}, None)
    assert words in str(error.value)


def test_a_volume_with_huge_chunks_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text(json.dumps({**v3([4, 10**6, 10**6], [1, 10**6, 10**6]), "node_type": "array", "attributes": {}}))
    with pytest.raises(VolumeError, match="are taken for an attack"):
        Volume.open(str(tmp_path))


BOMB = bytes(1 << 28)


def _frame(size: int) -> bytes:
    """A zstd frame of so many zeros that does not say how many: blocks of 128 KiB, each one byte that is repeated."""
    count = size >> 17
    blocks = (((n == count - 1) | 1 << 1 | 1 << 17 << 3).to_bytes(3, "little") + b"\0" for n in range(count))
    return b"\x28\xb5\x2f\xfd\x00\x58" + b"".join(blocks)


BOMBS = {
    "zstd": ({"name": "zstd", "configuration": {"level": 1, "checksum": False}}, lambda: Zstd().encode(BOMB)),
    "zstd that says no size": ({"name": "zstd", "configuration": {"level": 1, "checksum": False}}, lambda: _frame(len(BOMB))),
    "blosc": ({"name": "blosc", "configuration": {"typesize": 1, "cname": "zstd", "clevel": 1, "shuffle": "noshuffle", "blocksize": 0}}, lambda: Blosc("zstd").encode(BOMB)),
    "gzip": ({"name": "gzip", "configuration": {"level": 1}}, lambda: gzip.compress(BOMB, 1)),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_chunk_that_unpacks_to_more_than_it_declares_is_refused_before_there_is_room_for_it(kind: str, tmp_path: Path) -> None:
    codec, made = BOMBS[kind]
    doc = v3([4, 64, 64], [4, 64, 64])
    (tmp_path / "zarr.json").write_text(json.dumps({**doc, "codecs": [{"name": "bytes"}, codec], "chunk_key_encoding": {"name": "default"}, "node_type": "array", "attributes": {}}))
    (tmp_path / "c/0/0").mkdir(parents=True)
    (tmp_path / "c/0/0/0").write_bytes(made())
    volume = Volume.open(str(tmp_path))
    with pytest.raises(VolumeError):
        volume.read(Box.of(volume.shape))  # what is imported then takes room of its own
    tracemalloc.start()
    try:
        with pytest.raises(VolumeError, match="cannot be decoded"):
            volume.read(Box.of(volume.shape))
        assert tracemalloc.get_traced_memory()[1] < len(BOMB) / 8
    finally:
        tracemalloc.stop()


def test_the_largest_volume_that_is_planned_for_is_taken() -> None:
    parse_layout(v3([25_000, 200_000, 200_000], [64, 1024, 1024], "uint16"), {}, None)


CANARY = "cAnArY-7f3e"


@pytest.mark.parametrize("uri", [f"s3://me:{CANARY}@bucket/raw.zarr", f"https://host/raw.zarr?X-Amz-Signature={CANARY}"])
def test_an_address_with_a_secret_is_refused_without_repeating_it(uri: str) -> None:
    with pytest.raises(VolumeError, match="an address must not hold a") as error:
        Files(uri)
    assert CANARY not in str(error.value)


def test_no_secret_reaches_the_store_the_log_or_the_terminal(tmp_path: Path) -> None:
    job = build(tmp_path, (12, 128, 128))
    env = {"AWS_SECRET_ACCESS_KEY": CANARY, "AWS_ACCESS_KEY_ID": f"id-{CANARY}", "AWS_SESSION_TOKEN": CANARY}
    said = ""
    os.environ.update(env)
    try:
        for args in (["run", str(job.config(certificate=0))], ["export", "out.zarr", "--crate", "crate"], ["doctor", "."]):
            said += "".join(command(*args, cwd=tmp_path).communicate(timeout=200))
        bad = job.config(name="bad.yaml", volume={"path": f"s3://me:{CANARY}@bucket/raw.zarr"})
        said += "".join(command("-vv", "run", str(bad), cwd=tmp_path).communicate(timeout=100))
    finally:
        for name in env:
            del os.environ[name]
    bad.unlink()
    assert "slabs done" in said and "must not hold a password" in said
    assert CANARY not in said
    found = [p for p in tmp_path.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]
    assert found == [] and (tmp_path / "crate").is_dir()
