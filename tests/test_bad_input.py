"""Every kind of bad input in one table: a named error, the right exit code, words that a person understands, and nothing
made. Flags files that are wrong as CSV stand in tests/test_flags.py, and go through the command in test_flags_command.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pipeline.cli.root import cli
from pipeline.config import MOST_CHARS
from pipeline.errors import (
    ConfigError,
    FlagError,
    InputError,
    PlanChangedError,
    RestorerError,
    UsageError,
    VolumeError,
    ZmendError,
)
from tests import jobs, stores

CONFIG = """\
volume: {path: raw.zarr}
flags: flags.csv
output: {path: out.zarr, chunk_px: 32}
recipe: {restorer: linear}
site: {workers: 0, slab_px: 32}
certificate: 0
"""
Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    jobs.save(folder / "raw.zarr", stores.noise((6, 32, 32)), (2, 32, 32))
    (folder / "flags.csv").write_text("2\n")
    (folder / "zmend.yaml").write_text(CONFIG)
    return folder


# --- how inputs are spoiled


def config(text: str | bytes) -> Spoil:
    """Another zmend.yaml altogether."""
    return lambda folder: (folder / "zmend.yaml").write_bytes(text.encode() if isinstance(text, str) else text)


def said(before: str, after: str) -> Spoil:
    """zmend.yaml says something else in one place."""
    assert before in CONFIG
    return config(CONFIG.replace(before, after))


def recipe(words: str) -> Spoil:
    return said("restorer: linear", words if "restorer" in words else f"restorer: linear, {words}")


def volume(words: str) -> Spoil:
    return said("path: raw.zarr", words if "path" in words else f"path: raw.zarr, {words}")


def site(words: str) -> Spoil:
    return said("workers: 0, slab_px: 32", words)


def output(words: str) -> Spoil:
    return said("path: out.zarr, chunk_px: 32", words if "path" in words else f"path: out.zarr, {words}")


def flags(text: str | bytes) -> Spoil:
    return lambda folder: (folder / "flags.csv").write_bytes(text.encode() if isinstance(text, str) else text)


def metadata(**keys: Any) -> Spoil:
    """The volume's own document says something else."""

    def spoil(folder: Path) -> None:
        path = folder / "raw.zarr/zarr.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))

    return spoil


def document(text: str) -> Spoil:
    return lambda folder: (folder / "raw.zarr/zarr.json").write_text(text)


def image(entry: Any) -> Spoil:
    """The volume is a group whose OME metadata is this."""
    body = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5", "multiscales": entry}}}
    return document(json.dumps(body))


def array(data: np.ndarray, **create: Any) -> Spoil:
    """The volume is another array, written with zarr alone."""

    def spoil(folder: Path) -> None:
        shutil.rmtree(folder / "raw.zarr")
        made = zarr.create_array(str(folder / "raw.zarr"), shape=data.shape, dtype=data.dtype, chunks=tuple(max(n, 1) for n in data.shape), **create)
        made[...] = data

    return spoil


def grid(*chunks: int) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(chunks)}}


def bomb(depth: int) -> str:
    """Nine times nine times nine ... values in a few lines."""
    lines = "".join(f"  - &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(depth))
    return CONFIG.replace("flags: flags.csv\n", f"flags:\n  - &a [x, x, x, x, x, x, x, x, x]\n{lines}")


nan = np.full((6, 32, 32), np.nan, np.float32)
AXES = [{"name": n, "type": "space"} for n in "zyx"]
Case = tuple[Spoil, type[ZmendError], str]
CASES: dict[str, Case] = {
    # zmend.yaml as a file
    "config: not there": (lambda f: (f / "zmend.yaml").unlink(), ConfigError, "the configuration cannot be read"),
    "config: a folder": (lambda f: ((f / "zmend.yaml").unlink(), (f / "zmend.yaml").mkdir()), ConfigError, "Is a directory"),
    "config: empty": (config(""), ConfigError, "holds no keys"),
    "config: a list": (config("- volume\n"), ConfigError, "it needs volume, flags and output"),
    "config: a number": (config("42"), ConfigError, "holds no keys"),
    "config: broken": (config("volume: [\n"), ConfigError, "is not YAML"),
    "config: tabs": (config("volume:\n\tpath: raw.zarr\n"), ConfigError, "indent with spaces"),
    "config: not UTF-8": (config(CONFIG.encode("utf-16")), ConfigError, "is not YAML"),
    "config: a NUL": (config("\0"), ConfigError, "is not YAML"),
    "config: code": (config("!!python/object/apply:os.system ['true']"), ConfigError, "is not YAML"),
    "config: a bomb": (config(bomb(8)), ConfigError, "'flags' is [["),
    "config: nested without end": (config("volume: " + "{a: " * 1500), ConfigError, "is not YAML"),
    "config: a number without end": (recipe(f"seed: {'9' * 5000}"), ConfigError, "Exceeds the limit (4300 digits)"),
    "config: far too long": (config(CONFIG + "#" * MOST_CHARS), ConfigError, "characters are more than a configuration has"),
    # zmend.yaml as keys
    "config: a misspelt key": (config(CONFIG.replace("volume:", "volum:")), ConfigError, "did you mean 'volume'?"),
    "config: a key of elsewhere": (recipe("workers: 2"), ConfigError, "unknown key 'workers'"),
    "config: a number as a key": (config(CONFIG + "1: 2\n"), ConfigError, "keys should be strings"),
    "config: no output": (config(CONFIG.replace("output: {path: out.zarr, chunk_px: 32}\n", "")), ConfigError, "key 'output' is missing"),
    "config: a path alone": (said("{path: raw.zarr}", "raw.zarr"), ConfigError, "'volume' is 'raw.zarr'"),
    "config: no path": (volume("path:"), ConfigError, "'path' is None"),
    "config: a date": (recipe("seed: 2024-01-01"), ConfigError, "should be a valid integer"),
    "config: no steps": (recipe("steps: 0"), ConfigError, "greater than or equal to 1"),
    "config: endless steps": (recipe("steps: .inf"), ConfigError, "'steps' is inf"),
    "config: words for a number": (recipe("steps: many"), ConfigError, "'steps' is 'many'"),
    "config: a negative seed": (recipe("seed: -1"), ConfigError, "greater than or equal to 0"),
    "config: one draw": (recipe("uncertainty: 1"), ConfigError, "give 2 to 64 draws"),
    "config: a limit without draws": (recipe("refuse_above: 3"), ConfigError, "without an ensemble"),
    "config: an intensity upside down": (recipe("intensity: [200, 100]"), ConfigError, "give [black, white] with black < white"),
    "config: an unknown site": (site("kind: cloud"), ConfigError, "'kind' is 'cloud'"),
    "config: no time": (site("kind: slurm, walltime: 12:00:00"), ConfigError, "put it in quotes"),
    "config: keys of another site": (site("workers: 1, partition: gpu"), ConfigError, "goes with kind: slurm"),
    "config: a crowd": (site("workers: 1000000000"), ConfigError, "less than or equal to 4096"),
    "config: tiny chunks": (output("chunk_px: 0"), ConfigError, "greater than or equal to 16"),
    "config: an unknown mode": (output("mode: both"), ConfigError, "'mode' is 'both'"),
    # where things shall be
    "output: the source": (output("path: raw.zarr"), InputError, "the output would be written into the source"),
    "output: in the source": (output("path: raw.zarr/out.zarr"), InputError, "give output.path a place of its own"),
    "output: around the source": (output("path: ''"), InputError, "the output would be written into the source"),
    "output: a file": (output("path: flags.csv"), VolumeError, "something that is no zmend store is there already"),
    "output: in a file": (output("path: flags.csv/out.zarr"), VolumeError, "the output would lie in a file"),
    "output: somebody's folder": (lambda f: ((f / "mine").mkdir(), (f / "mine/x").touch(), output("path: mine")(f)), VolumeError, "name another output, or remove it"),
    "output: on the web": (output("path: 'http://localhost:1/out.zarr'"), VolumeError, "outputs go to a folder or to an S3 bucket"),
    "output: a name too long": (output(f"path: {'x' * 300}"), VolumeError, "a name of more than 255 bytes"),
    "volume: a NUL in its path": (volume('path: "raw\\0.zarr"'), VolumeError, "this is no address"),
    "volume: a password in its address": (volume("path: 's3://me:secret@bucket/raw.zarr'"), VolumeError, "an address must not hold a password"),
    "volume: an unknown kind of address": (volume("path: 'zzz://host/raw.zarr'"), VolumeError, "Protocol not known: zzz"),
    # the volume
    "volume: nothing there": (volume("path: gone.zarr"), VolumeError, "there is no Zarr volume here"),
    "volume: a TIFF": (volume("path: flags.csv"), VolumeError, "this is a file, not a Zarr volume"),
    "volume: an empty folder": (lambda f: (shutil.rmtree(f / "raw.zarr"), (f / "raw.zarr").mkdir()), VolumeError, "this folder is empty"),
    "volume: a folder": (lambda f: (f / "raw.zarr/zarr.json").unlink(), VolumeError, "neither zarr.json nor .zarray nor .zgroup"),
    "volume: no such level": (volume("level: 7"), VolumeError, "level 7 of an array that has no levels"),
    "volume: half a level": (volume("level: 0.5"), ConfigError, "'level' is 0.5"),
    "volume: signed": (array(np.ones((6, 32, 32), np.int32)), VolumeError, "voxels of type int32 are not supported"),
    "volume: float with NaN": (array(nan), VolumeError, "voxels of type float32 are not supported"),
    "volume: bool": (array(np.ones((6, 32, 32), bool)), VolumeError, "uint8 or uint16"),
    "volume: complex": (array(np.ones((6, 32, 32), np.complex64)), VolumeError, "voxels of type complex64"),
    "volume: 2-D": (array(np.ones((32, 32), np.uint8)), VolumeError, "cannot tell z, y and x apart"),
    "volume: 5-D": (array(np.ones((2, 3, 6, 32, 32), np.uint8), dimension_names=tuple("tczyx")), VolumeError, "axis t is longer than 1"),
    "volume: 4-D without names": (array(np.ones((1, 6, 32, 32), np.uint8)), VolumeError, "name the axes z, y, x"),
    "volume: other axes": (metadata(dimension_names=["i", "j", "k"]), VolumeError, "in axes i, j, k"),
    "volume: one axis twice": (metadata(dimension_names=["z", "z", "x"]), VolumeError, "cannot tell z, y and x apart"),
    "volume: no sections": (metadata(shape=[0, 32, 32]), VolumeError, "sizes are whole numbers above 0"),
    "volume: fewer than none": (metadata(shape=[-6, 32, 32]), VolumeError, "an array with shape (-6, 32, 32) is refused"),
    "volume: more than all": (metadata(shape=[10**9] * 3), VolumeError, "can be counted in 63 bits"),
    "volume: a shape in words": (metadata(shape=["many", 32, 32]), VolumeError, "the array's metadata cannot be understood"),
    "volume: absurd chunks": (metadata(chunk_grid=grid(1, 10**6, 10**6)), VolumeError, "are taken for an attack"),
    "volume: empty chunks": (metadata(chunk_grid=grid(1, 0, 32)), VolumeError, "chunks (1, 0, 32) is refused"),
    "volume: chunks of many sizes": (metadata(chunk_grid={"name": "rectilinear"}), VolumeError, "rewrite the volume with chunks of one shape"),
    "volume: an unknown codec": (metadata(codecs=[{"name": "bytes"}, {"name": "zzz"}]), VolumeError, "Unknown codec: 'zzz'"),
    "volume: no codecs": (metadata(codecs=[]), VolumeError, "zarr cannot open the array"),
    "volume: an unknown key encoding": (metadata(chunk_key_encoding={"name": "zzz"}), VolumeError, "Unknown chunk key encoding"),
    "volume: endless black": (metadata(fill_value=float("inf")), VolumeError, "the array's metadata cannot be understood"),
    "volume: another Zarr": (metadata(zarr_format=4), VolumeError, "restore the array's own document"),
    "volume: attributes in a list": (metadata(attributes=[]), VolumeError, "the attributes cannot be understood"),
    "volume: our attributes a number": (metadata(attributes={"zmend": 5}), VolumeError, "tables of names and values"),
    "volume: a voxel size in words": (metadata(attributes={"zmend": {"voxel_nm": "wide"}}), VolumeError, "the array's voxel size cannot be understood"),
    "volume: metadata is no JSON": (document("{"), VolumeError, "metadata is not JSON"),
    "volume: metadata without end": (document("[" * 100_000), VolumeError, "metadata is not JSON"),
    "volume: metadata says nothing": (document("{}"), VolumeError, "it has no multiscales"),
    "volume: OME a number": (image(5), VolumeError, "the OME metadata cannot be understood"),
    "volume: OME without levels": (image([{"axes": AXES, "datasets": []}]), VolumeError, "the OME metadata cannot be understood"),
    "volume: OME of a level that is gone": (image([{"axes": AXES, "datasets": [{"path": "s0"}]}]), VolumeError, "level 0 is not there"),
    "volume: a voxel size of NaN": (volume("voxel_size_nm: [.nan, 4, 4]"), VolumeError, "give three positive numbers"),
    "volume: a voxel size of two": (volume("voxel_size_nm: [40, 4]"), ConfigError, "voxel_size_nm: [z, y, x]"),
    "volume: voxels of no known size": (lambda f: (metadata(attributes={})(f), recipe("restorer: diffusion")(f)), RestorerError, "the voxel size is not known"),
    "volume: voxels too large": (lambda f: (volume("voxel_size_nm: [4000, 400, 400]")(f), config((f / "zmend.yaml").read_text().replace("linear", "diffusion"))(f)), RestorerError, "outside what"),
    # flags; as CSV: tests/test_flags.py
    "flags: not there": (said("flags.csv", "gone.csv"), FlagError, "the flags file cannot be read"),
    "flags: a folder": (said("flags.csv", "raw.zarr"), FlagError, "the flags file is a folder"),
    "flags: a binary": (flags(bytes(range(256))), FlagError, "not text"),
    "flags: beyond the volume": (flags("99\n"), FlagError, "leaves the volume"),
    "flags: broken JSON": (flags("[1,"), FlagError, "this is not JSON"),
    "flags: JSON of nothing": (flags("[]"), FlagError, "its list is empty"),
    "flags: JSON of halves": (flags("[1.5]"), FlagError, "1.5 is no section"),
    "flags: JSON of words": (flags('["two"]'), FlagError, "sections are whole numbers"),
    "flags: JSON of truths": (flags("[true]"), FlagError, "True is no section"),
    "flags: JSON of NaN": (flags("[NaN]"), FlagError, "nan is no section"),
    "flags: JSON of three": (flags("[[1, 2, 3]]"), FlagError, "[1, 2, 3] is no section"),
    "flags: JSON upside down": (flags("[[5, 2]]"), FlagError, "z 5:2 is reversed"),
    "flags: JSON below zero": (flags("[-1]"), FlagError, "z -1:0 is negative"),
    "flags: JSON of something else": (flags('{"stacks": {"a": 1}}'), FlagError, "its keys are stacks"),
    "flags: CATMAID with a number": (flags('{"broken_slices": 5}'), FlagError, "this JSON is no list of sections"),
    "flags: CATMAID with Arabic digits": (flags('{"broken_slices": {"\u0663": 1}}'), FlagError, "this JSON is no list of sections"),
    "flags: JSON without end": (flags("[" * 100_000), FlagError, "this JSON cannot be read"),
    "flags: a JSON number without end": (flags(f"[{'9' * 5000}]"), FlagError, "this JSON cannot be read"),
    # restorers and weights; weights that a card describes: below
    "restorer: unknown": (recipe("restorer: linaer"), RestorerError, "there is no restorer 'linaer'"),
    "restorer: a module of nobody": (recipe("restorer: 'nowhere:Class'"), RestorerError, "module:Class of your own"),
    "restorer: a relative module": (recipe("restorer: '..:x'"), RestorerError, "there is no restorer '..:x'"),
    "restorer: no restorer": (recipe("restorer: 'collections:Counter'"), RestorerError, "the restorer does not declare what it needs"),
    "restorer: unknown options": (recipe("options: {stepz: 4}"), RestorerError, "linear has no options, and was given stepz"),
    "restorer: draws none": (recipe("uncertainty: 4"), RestorerError, "cannot say how sure it is"),
    "weights: not there": (recipe("restorer: diffusion, weights: gone.safetensors"), RestorerError, "no such file"),
    "weights: a pickle by name": (recipe("restorer: diffusion, weights: model.pt"), RestorerError, "loading them can run code"),
}


def refused(folder: Path, *words: str) -> ZmendError:
    """The error that the command ends with. One that is none of ours fails the test."""
    with pytest.raises(ZmendError) as caught:
        cli([*words], standalone_mode=False)
    return caught.value


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_words_and_nothing_is_made(name: str, good: Path, tmp_path: Path) -> None:
    spoil, kind, words = CASES[name]
    folder = tmp_path / "job"
    shutil.copytree(good, folder)
    spoil(folder)
    before = jobs.tree(folder)
    error = refused(folder, "run", str(folder / "zmend.yaml"))
    assert (type(error), error.exit_code) == (kind, 3)
    assert words in str(error)
    assert error.where or error.why, "it says where, or why"
    assert error.do, "it says what to do"
    assert len(str(error)) < 2000 and "secret" not in str(error)
    assert jobs.tree(folder) == before and not (folder / "out.zarr").exists()


def test_the_good_job_is_no_bad_one(good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    shutil.copytree(good, folder)
    cli(["run", str(folder / "zmend.yaml"), "--json"], standalone_mode=False)
    assert (folder / "out.zarr").is_dir()


def test_there_are_kinds_enough() -> None:
    from tests.test_flags import REFUSED

    assert len(CASES) >= 100 and len(REFUSED) >= 60


VERBS = {
    "verify of nothing": (["verify", "{}/gone.zarr"], VolumeError, 3, "there is no zmend store here"),
    "verify of a volume": (["verify", "{}/raw.zarr"], PlanChangedError, 3, "no run has begun in this store"),
    "status of nothing": (["status", "{}/gone.zarr"], VolumeError, 3, "there is no zmend store here"),
    "merge of a file": (["merge", "{}/flags.csv"], VolumeError, 3, "there is no zmend store here"),
    "a story of no place": (["verify", "{}/raw.zarr", "--at", "1,2"], UsageError, 2, "is not three integers"),
    "a shape in words": (["plan", "--shape", "big"], UsageError, 2, "is not three integers"),
    "a shape without depth": (["plan", "--shape", "0,9,9"], UsageError, 2, "has an axis below 1"),
    "a plan that is none": (["run", "{}/zmend.yaml", "--plan", "{}/flags.csv"], PlanChangedError, 3, "this is no plan"),
    "a site that is not there": (["run", "{}/zmend.yaml", "--site", "{}/gone.yaml"], ConfigError, 3, "the configuration cannot be read"),
    "a plan over something else": (["plan", "{}/zmend.yaml", "--out", "{}/flags.csv"], UsageError, 2, "is there and is no plan"),
    "scan of nothing": (["scan", "{}/gone.zarr", "--out", "{}/found.csv"], VolumeError, 3, "there is no Zarr volume here"),
    "export of nothing": (["export", "{}/gone.zarr", "--prov", "{}/p.json"], VolumeError, 3, "there is no zmend store here"),
}


@pytest.mark.parametrize("name", VERBS)
def test_other_verbs_refuse_in_words_too(name: str, good: Path) -> None:
    words, kind, code, text = VERBS[name]
    before = jobs.tree(good)
    error = refused(good, *(w.format(good) for w in words))
    assert (type(error), error.exit_code) == (kind, code)
    assert text in str(error) and error.do
    assert jobs.tree(good) == before


# --- weights


def weights(folder: Path) -> Path:
    """A job that brings weights of its own, and these weights."""
    from model.checkpoint import Card, export
    from tests.model.tiny import TINY, alive

    path = folder / "tiny.safetensors"
    card = Card("tiny", "", TINY.to_dict(), {"steps": 1}, [], "test", {}, max_gap=2, tile=32, halo=16, stride=TINY.stride)
    export(path, dict(alive().state_dict()), card)
    recipe("restorer: diffusion, weights: tiny.safetensors")(folder)
    return path


def flipped(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


def carded(path: Path, body: bytes) -> None:
    """Other bytes, which the card says are the right ones."""
    from model.checkpoint import sha256_of

    path.write_bytes(body)
    edited(path, sha256=sha256_of(path))


def edited(path: Path, **values: Any) -> None:
    card = path.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | values))


def spoilt_numbers(path: Path) -> None:
    from safetensors.numpy import load_file, save

    tensors = {k: np.full_like(v, np.nan) for k, v in load_file(path).items()}
    carded(path, save(tensors))


def other_network(path: Path) -> None:
    network = json.loads(path.with_suffix(".json").read_text())["network"]
    edited(path, network={**network, "widths": [32, 16, 16]})


WEIGHTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (flipped, "the file was damaged or replaced"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "the file was damaged or replaced"),
    "empty": (lambda p: p.write_bytes(b""), "the file was damaged or replaced"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "Is a directory"),
    "a pickle in disguise": (lambda p: carded(p, b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n."), "no safetensors file"),
    "a header without end": (lambda p: carded(p, b"\xff" * 8 + b"{}"), "no safetensors file"),
    "NaN": (spoilt_numbers, "hold NaN or infinity"),
    "another network": (other_network, "do not fit the network of their card"),
    "no card": (lambda p: p.with_suffix(".json").unlink(), "its card tiny.json is missing"),
    "another one's card": (lambda p: edited(p, sha256="0" * 64), "its card says 000000"),
    "a card that is no JSON": (lambda p: p.with_suffix(".json").write_text("{"), "not valid JSON"),
    "a card of another time": (lambda p: edited(p, schema="zmend-weights/9"), "update zmend or export the weights again"),
    "a card with a tile of text": (lambda p: edited(p, tile="wide"), "the card was edited"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_refused_in_words_before_anything_is_made(name: str, good: Path, tmp_path: Path) -> None:
    spoil, words = WEIGHTS[name]
    folder = tmp_path / "job"
    shutil.copytree(good, folder)
    path = weights(folder)
    spoil(path)
    error = refused(folder, "run", str(folder / "zmend.yaml"))
    assert (type(error), error.exit_code) == (RestorerError, 3)
    assert words in str(error) and error.do
    assert not (folder / "out.zarr").exists()


# --- as people see it


@pytest.mark.parametrize("name", ["config: broken", "config: nested without end", "volume: float with NaN", "flags: JSON without end", "output: in a file"])
def test_the_command_says_so_on_stderr_and_shows_no_traceback(name: str, good: Path, tmp_path: Path) -> None:
    spoil, _, words = CASES[name]
    folder = tmp_path / "job"
    shutil.copytree(good, folder)
    spoil(folder)
    process = jobs.command("run", "zmend.yaml", cwd=folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3 and out == ""
    assert err.startswith("zmend: ") and words in err and "  do:    " in err and "Traceback" not in err
    assert not (folder / "out.zarr").exists()
