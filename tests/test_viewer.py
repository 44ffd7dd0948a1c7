"""zmend view without a browser: the state, what the server hands out and to whom, links, and refusals."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from pipeline.box import Box
from pipeline.errors import PlanChangedError, UsageError
from pipeline.flags import Flag
from pipeline.scene import LISTED, Parts, address, dimensions, scene
from pipeline.viewer import SERVED, link, part
from pipeline.volume import Volume
from tests.jobs import ENSEMBLE, Job, build, command
from tests.stores import kind, noise, write_volume

UNIT = {name: [1, ""] for name in "xyz"}


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A merged volume in shards, with a spread; uint16, so that there is a window of grey values."""
    job = build(tmp_path_factory.mktemp("view"), dtype=np.uint16, shards=(8, 256, 256))
    job.run(recipe=ENSEMBLE, certificate=0, output={"shard_px": 256})
    return job


@pytest.fixture(scope="module")
def served(mended: Job) -> Iterator[dict[str, Any]]:
    pytest.importorskip("neuroglancer")
    process = command("view", "out.zarr", "--json", cwd=mended.folder)
    assert process.stdout is not None
    yield json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", ""), "Ctrl-C is how it ends"


def get(url: str, path: str, method: str = "GET", **headers: str) -> SimpleNamespace:
    """A request with the path as it is: http.client tidies nothing away."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = SimpleNamespace(status=answer.status, headers=answer.headers, body=answer.read())
    connection.close()
    return found


def objects(served: dict[str, Any]) -> str:
    return f"/objects/{urlsplit(served['url']).path.split('/')[2]}"


def test_metadata_and_chunks_are_handed_out_whole_and_in_parts(served: dict[str, Any], mended: Job) -> None:
    at, url = objects(served), served["url"]
    for path, file in (
        ("store/zarr.json", "out.zarr/zarr.json"), ("store/0/c/0/0/0", "out.zarr/0/c/0/0/0"),
        ("store/labels/synthetic/0/c/1/0/0", "out.zarr/labels/synthetic/0/c/1/0/0"), ("source/c/1/1/1", "raw.zarr/c/1/1/1"),
    ):  # fmt: skip
        body = (mended.folder / file).read_bytes()
        found = get(url, f"{at}/{path}")
        assert (found.status, found.body) == (200, body)
        head = get(url, f"{at}/{path}", "HEAD")
        assert (head.status, int(head.headers["Content-Length"]), head.body) == (200, len(body), b"")
        for asked, piece in (("bytes=3-9", body[3:10]), ("bytes=-20", body[-20:]), ("bytes=5-", body[5:])):
            found = get(url, f"{at}/{path}", Range=asked)
            assert (found.status, found.body) == (206, piece)
            assert found.headers["Content-Range"].endswith(f"/{len(body)}")


def test_nothing_else_is_handed_out_and_nothing_to_strangers(served: dict[str, Any], mended: Job) -> None:
    at, url = objects(served), served["url"]
    secret = mended.folder / "1"
    secret.write_text("no chunk of any store")
    record = next((mended.folder / "out.zarr/zmend/records").rglob("*.json")).relative_to(mended.folder / "out.zarr")
    wrong = (
        f"{at}/store/{record}", f"{at}/store/zmend/lock", f"{at}/source/flags.csv", f"{at}/store/9/c/0/0/0", f"{at}/other/zarr.json",
        f"{at}/store/../1", f"{at}/store/..%2f1", f"{at}/store/%2e%2e/1", f"{at}/store/{mended.folder}/1", f"{at}/store//{mended.folder}/1",
        f"/objects/{'0' * 40}/store/zarr.json", "/objects//store/zarr.json", f"/v/{'0' * 40}/", "/",
    )  # fmt: skip
    assert {path: get(url, path).status for path in wrong} == dict.fromkeys(wrong, 404)
    credentials = get(url, urlsplit(url).path.replace("/v/", "/credentials/").rstrip("/"), "POST")
    assert credentials.status == 403, "the credentials of this account are nobody's business"


def test_it_listens_on_loopback_alone_and_says_how_to_get_there(served: dict[str, Any]) -> None:
    where = urlsplit(served["url"])
    assert where.hostname == "127.0.0.1"
    assert served["from_elsewhere"] == f"ssh -L {where.port}:127.0.0.1:{where.port} {socket.gethostname()}"
    assert len(where.path.split("/")[2]) == 40 and served["defects"] == 4
    others = {i[4][0] for i in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address_ in others:
        with pytest.raises(OSError), socket.create_connection((address_, where.port or 0), timeout=5):
            pass


@pytest.mark.parametrize(
    ("key", "is_served"),
    [
        ("zarr.json", True), ("0/.zarray", True), (".zattrs", True), ("a b/.zgroup", True), ("0/c/1/2/3", True), ("s0/1.2.3", True), ("0/c.1.2.3", True),
        ("zmend/records/ab/cd.json", False), ("zmend/lock", False), ("../1", False), ("a/../1", False), ("/1", False), ("a//1", False), ("", False),
        ("zarr.json/", False), ("1\n", False), ("c/x/1y", False),
    ],
)  # fmt: skip
def test_only_documents_and_chunks_have_names_that_are_served(key: str, is_served: bool) -> None:
    assert bool(SERVED.fullmatch(key)) == is_served


@pytest.mark.parametrize(
    ("asked", "due"),
    [("", (0, 90)), ("bytes=0-9", (0, 10)), ("bytes=80-200", (80, 90)), ("bytes=-7", (83, 90)), ("bytes=-200", (0, 90)), ("bytes=9-", (9, 90)),
     ("bytes=0-1,5-6", (0, 90)), ("bytes=-", (0, 90)), ("lines=1-2", (0, 90)), ("bytes=200-300", (90, 90))],
)  # fmt: skip
def test_a_range_is_what_it_says(asked: str, due: tuple[int, int]) -> None:
    assert part(asked, 90) == due


def test_a_link_names_published_places(mended: Job, tmp_path: Path) -> None:
    store, base = str(mended.folder / "out.zarr"), "https://data.example.org/em/out.zarr/"
    said = link(store, str(tmp_path / "a.json"), base_url=base, source_url="")
    assert said["layers"] == ["restored", "synthetic", "uncertainty", "defects"] and "--source-url" in said["left_out"]
    said = link(store, str(tmp_path / "b.json"), base_url=base, source_url="precomputed://gs://bucket/em")
    assert said["layers"] == ["source", "restored", "synthetic", "uncertainty", "defects"] and "left_out" not in said
    state = json.loads((tmp_path / "b.json").read_text())
    urls = {layer["name"]: layer["source"]["url"] for layer in state["layers"]}
    assert urls == {
        "source": "precomputed://gs://bucket/em", "restored": f"zarr3://{base}", "synthetic": f"zarr3://{base}labels/synthetic/",
        "uncertainty": f"zarr3://{base}zmend/uncertainty/", "defects": "local://annotations",
    }  # fmt: skip
    assert str(mended.folder) not in (tmp_path / "b.json").read_text()
    assert state["dimensions"] == {"x": [pytest.approx(4.6e-9), "m"], "y": [pytest.approx(4.6e-9), "m"], "z": [pytest.approx(4.5e-8), "m"]}
    assert list(state["dimensions"]) == state["displayDimensions"] == ["x", "y", "z"]
    low, high = next(v for v in state["layers"] if v["name"] == "restored")["shaderControls"]["normalized"]["range"]
    assert 0 <= low < high <= 65535 and high - low < 65535, "16 bits are shown in the window that they were restored in"


def test_a_folder_is_no_link(mended: Job, tmp_path: Path) -> None:
    for base in ("", "precomputed://https://h/x", "ftp://h/x"):
        with pytest.raises(UsageError, match=r"cannot open this address[\s\S]*--base-url"):
            link(str(mended.folder / "out.zarr"), str(tmp_path / "x.json"), base_url=base, source_url="")
    assert not (tmp_path / "x.json").exists()
    process = command("view", "out.zarr", "--base-url", "https://x", cwd=mended.folder)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "belong to --link" in err


def test_what_cannot_be_served_is_refused_in_words(mended: Job, tmp_path: Path) -> None:
    with pytest.raises(PlanChangedError, match="no run has begun"):
        (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
        link(str(tmp_path), "x", base_url="https://x", source_url="")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = command("view", "out.zarr", "--port", str(port), cwd=mended.folder)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 7 and f"port {port} cannot be opened" in err and "--port" in err
    (tmp_path / "neuroglancer.py").write_text("raise ImportError('not here')")  # found first: beside the script
    process = command("view", str(mended.folder / "out.zarr"), cwd=tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 7 and "Neuroglancer is not installed here" in err and 'pip install "zmend[view]"' in err


# --- the state


@pytest.mark.parametrize(("name", "prefix"), [("ome04", "zarr2"), ("ome05", "zarr3")])
def test_images_tell_their_sizes_themselves_unless_told_otherwise(name: str, prefix: str, tmp_path: Path) -> None:
    uri = write_volume(tmp_path / "v", kind(name), [noise((8, 32, 32)), noise((8, 16, 16))], steps=[(1, 2, 2)])
    volume = Volume.open(uri, level=1)
    sizes = dimensions(volume, (40.0, 16.0, 16.0))
    assert address(volume, "https://h/v", sizes) == {"url": f"{prefix}://https://h/v/"}
    assert dimensions(volume, None) == {"x": [16.0, ""], "y": [16.0, ""], "z": [40.0, ""]}
    told = Volume.open(uri, level=1, voxel_nm=(80.0, 32.0, 32.0))
    transform = address(told, "https://h/v", dimensions(told, told.voxel_nm))["transform"]
    assert transform["outputDimensions"] == {"z": [8e-8, "m"], "y": [1.6e-8, "m"], "x": [1.6e-8, "m"]}, "of its finest level"


def test_arrays_alone_are_moved_to_where_images_lie(tmp_path: Path) -> None:
    volume = Volume.open(write_volume(tmp_path / "v", kind("v3-cxyz"), [noise((8, 32, 32))]))
    transform = address(volume, "https://h/v", dimensions(volume, (40.0, 8.0, 8.0)))["transform"]
    assert list(transform["outputDimensions"]) == ["c", "x", "y", "z"] and transform["outputDimensions"]["c"] == [1, ""]
    assert transform["matrix"] == [[1, 0, 0, 0, 0], [0, 1, 0, 0, -0.5], [0, 0, 1, 0, -0.5], [0, 0, 0, 1, -0.5]]
    assert transform["inputDimensions"] == transform["outputDimensions"]
    assert dimensions(volume, None) == UNIT


def parts(**changes: Any) -> Parts:
    url = {"url": "zarr3://https://h/"}
    given = {"dimensions": UNIT, "shape": (8, 2400, 600), "source": url, "restored": url, "merged": True, "labels": url, "uncertainty": None,
             "window": None, "defects": ()}  # fmt: skip
    return Parts(**(given | changes))


def test_every_defect_is_a_box_of_the_list() -> None:
    flags = tuple(Flag(Box((z, 0, 10), (z + 2, 4, 20)), "fold", source="me", note="<b>") for z in range(LISTED + 3))
    state = scene(parts(defects=flags))
    layer = next(v for v in state["layers"] if v["name"] == "defects")
    assert len(layer["annotations"]) == LISTED and state["position"] == [14.0, 1.0, 0.0]
    assert layer["annotations"][7] == {
        "type": "axis_aligned_bounding_box", "id": "defect-8", "description": "8 fold, sections 7–8, me, <b>",
        "pointA": [9.5, -0.5, 6.5], "pointB": [19.5, 3.5, 8.5],
    }  # fmt: skip
    assert scene(parts())["position"] == [300.0, 1200.0, 4.0] and scene(parts())["crossSectionScale"] == 4.0


def test_panels_have_only_layers_that_there_are() -> None:
    def panels(**changes: Any) -> list[Any]:
        state = scene(parts(**changes))
        names = {layer["name"] for layer in state["layers"]}
        rows = state["layout"]["children"]
        assert [[p["layout"] for p in row["children"]] for row in rows] == [["xy"] * 2, ["xz"] * 2]
        assert all(set(p["layers"]) <= names for row in rows for p in row["children"])
        return [p["layers"] for p in rows[0]["children"]]

    assert panels() == [["source", "synthetic", "defects"], ["restored", "defects"]]
    assert panels(source=None) == [["synthetic", "defects"], ["restored", "defects"]]
    assert panels(merged=False, uncertainty={"url": "x"})[1] == ["source", "restored", "uncertainty", "defects"]
    assert panels(merged=False, source=None)[1] == ["restored", "defects"]
