"""zmend nightly: volumes that grow are kept mended by themselves; the page says what was done."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from click.testing import CliRunner
from numpy.typing import NDArray

from pipeline.cli import cli
from pipeline.config import load
from pipeline.errors import Interrupted, StoreLockedError, UsageError, VolumeError
from pipeline.lock import StoreLock
from pipeline.nightly import Nightly
from pipeline.page import MOST, page
from pipeline.remerge import remerge
from pipeline.revert import revert
from pipeline.run import Stop
from pipeline.store import has_merged, open_labels
from tests.jobs import voxels
from tests.test_rescan import grow, stack
from tests.test_scan import save

__all__ = ["stack"]


def config(folder: Path, **parts: Any) -> Path:
    body: dict[str, Any] = {
        "volume": {"path": "raw.zarr"}, "flags": "flags.csv", "output": {"path": "mended.zarr", "chunk_px": 64},
        "recipe": {"restorer": "linear"}, "site": {"workers": 0, "slab_px": 64}, "certificate": 0, **parts,
    }  # fmt: skip
    (folder / "zmend.yaml").write_text(yaml.safe_dump(body))
    return folder / "zmend.yaml"


def nightly(folder: Path, **options: Any) -> tuple[dict[str, Any], list[int]]:
    """A cycle: what it told, and the sections of the slabs that were worked on."""
    events: list[dict[str, Any]] = []
    asked = load(folder / "zmend.yaml")
    told = Nightly(asked, folder / "zmend.nightly", on_event=events.append, **options).cycle()
    return told, sorted({e["write"][0][0] for e in events if e["kind"] == "slab" and "write" in e})


def test_a_volume_that_grows_is_kept_mended(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    uri = save(tmp_path / "raw.zarr", stack[:24])
    config(tmp_path)
    told, done = nightly(tmp_path)
    assert (done, told["new"], told["headline"]) == ([4, 14, 20], 24, "done")
    text = Path(told["page"]).read_text()
    assert text.startswith("# zmend nightly: done\n") and "section 14, missing, y " in text and "ok, level lineage" in text
    told, done = nightly(tmp_path)
    assert (done, told["headline"], told["scan"]["looked_at"]) == ([], "nothing new", 0)
    assert told["verify"]["skipped"].startswith("Not verified tonight. Nothing that is recorded has changed since")
    grow(uri, stack, 33)
    told, done = nightly(tmp_path)
    assert (done, told["new"], told["scan"]["new"][0]["z_start"]) == ([31], 9, 31)
    assert set(told["explain"]["counts"]) == {"unchanged", "new section"}
    grow(uri, stack, 44)
    assert nightly(tmp_path)[1] == [38, 41]
    assert len(list((tmp_path / "zmend.nightly").glob("*.md"))) == 4
    save(tmp_path / "once/raw.zarr", stack)
    config(tmp_path / "once")
    nightly(tmp_path / "once")
    for what in ("merged", "labels", "overlay"):
        np.testing.assert_array_equal(voxels(tmp_path / "mended.zarr", what), voxels(tmp_path / "once/mended.zarr", what))


def test_an_intact_volume_is_mirrored_until_something_is_found(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    uri = save(tmp_path / "raw.zarr", stack[5:14])
    config(tmp_path)
    told, done = nightly(tmp_path)
    assert (done, told["explain"]["slabs"], told["verify"]["ok"]) == ([], 0, True)
    np.testing.assert_array_equal(voxels(tmp_path / "mended.zarr"), stack[5:14])
    array: Any = zarr.open_array(uri, mode="r+")
    array[4] = 0
    assert nightly(tmp_path)[1] == [4]
    array[4] = stack[9]  # imaged again
    told, done = nightly(tmp_path)
    assert (done, told["scan"]["gone"], told["explain"]["taken_back"]) == ([], 1, [[4, 5]])
    np.testing.assert_array_equal(voxels(tmp_path / "mended.zarr"), stack[5:14])


def test_lists_that_people_keep_are_not_touched(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    save(tmp_path / "raw.zarr", stack[:8])
    config(tmp_path)
    (tmp_path / "flags.csv").write_text("4\n")
    with pytest.raises(UsageError, match="is a list that people keep"):
        nightly(tmp_path)
    (text,) = (p.read_text() for p in (tmp_path / "zmend.nightly").glob("*.md"))
    assert text.startswith("# zmend nightly: failed: ") and "--no-scan" in text
    told, done = nightly(tmp_path, seek=False, level=None)
    assert (done, "scan" in told, "verify" in told) == ([4], False, False)
    assert (tmp_path / "flags.csv").read_text() == "4\n"


def test_two_cycles_keep_each_other_out(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    save(tmp_path / "raw.zarr", stack[:8])
    config(tmp_path)
    (tmp_path / "zmend.nightly").mkdir()
    with StoreLock(str(tmp_path / "zmend.nightly"), "lock"), pytest.raises(StoreLockedError, match="another cycle is at work"):
        nightly(tmp_path)
    assert list((tmp_path / "zmend.nightly").iterdir()) == []
    assert not (tmp_path / "flags.csv").exists()


@pytest.mark.parametrize("when", ["scan", "run"])
def test_a_cycle_that_was_stopped_is_gone_on_with(when: str, stack: NDArray[np.uint8], tmp_path: Path) -> None:
    save(tmp_path / "raw.zarr", stack[:24])
    config(tmp_path)
    stop, seen = Stop(), []

    def on_event(event: dict[str, Any]) -> None:
        seen.append(event)
        stop.requested = event["kind"] == "slab" and ("write" in event) == (when == "run")

    cycle = Nightly(load(tmp_path / "zmend.yaml"), tmp_path / "zmend.nightly", on_event=on_event)
    with pytest.raises(Interrupted):
        cycle.cycle(stop)
    (text,) = (p.read_text() for p in (tmp_path / "zmend.nightly").glob("*.md"))
    assert text.startswith("# zmend nightly: interrupted: ")
    assert not (tmp_path / "zmend.nightly/lock").exists()
    told, _ = nightly(tmp_path)
    assert told["verify"]["ok"] and told["run"]["done"] == told["run"]["slabs"] > 0


def test_a_verification_that_fails_is_said_every_night(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    save(tmp_path / "raw.zarr", stack[:8])
    path = config(tmp_path)
    assert nightly(tmp_path)[0]["verify"]["ok"]
    (tmp_path / "zmend.nightly/last.json").unlink()
    labels = open_labels(str(tmp_path / "mended.zarr"))
    box = next(iter(labels.present()))
    labels.write(box, labels.read(box) * np.uint8(2))  # a section that was made is said to be a region
    for _ in range(2):
        result = CliRunner().invoke(cli, ["nightly", str(path), "--json"])
        if result.exit_code != 5 and getattr(result.exception, "exit_code", 0) != 5:
            raise AssertionError(result.output) from result.exception
        assert not json.loads(result.stdout)["verify"]["ok"]


def test_no_night_claims_a_verification_that_was_not(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    save(tmp_path / "raw.zarr", stack[:8])
    config(tmp_path)
    assert nightly(tmp_path)[0]["verify"]["ok"]
    out = str(tmp_path / "mended.zarr")
    revert(out, max(p.name for p in (tmp_path / "mended.zarr/zmend/runs").iterdir()))
    assert nightly(tmp_path)[0]["verify"]["ok"], "all was made anew, by the same plan"
    chunk = next(p for p in (tmp_path / "mended.zarr/0").rglob("4/0/0"))
    times, raw = chunk.stat(), bytearray(chunk.read_bytes())
    raw[len(raw) // 2] ^= 1
    chunk.write_bytes(raw)
    os.utime(chunk, ns=(times.st_atime_ns, times.st_mtime_ns))
    night = nightly(tmp_path, every=2 + 1)[0]
    told = night["verify"]
    assert "ok" not in told and told["nights"] == 1 and f"`zmend verify {out}` does" in told["skipped"]
    assert "## Verified\n\nNot verified tonight." in Path(night["page"]).read_text()
    assert "never again by itself" in nightly(tmp_path, every=0)[0]["verify"]["skipped"]
    assert not nightly(tmp_path, every=2 + 1)[0]["verify"]["ok"], "the third night reads all of it again"


def test_a_full_volume_beside_an_overlay_does_not_fall_behind(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    uri = save(tmp_path / "raw.zarr", stack[:9])
    config(tmp_path, output={"path": "mended.zarr", "chunk_px": 64, "mode": "overlay"})
    nightly(tmp_path, level=None)
    out = str(tmp_path / "mended.zarr")
    assert not has_merged(out), "nobody has asked for one"
    remerge(out)
    array: Any = zarr.open_array(uri, mode="r+")
    array[6] = 0
    assert nightly(tmp_path)[0]["verify"]["ok"] and voxels(out)[6].any()


def test_a_volume_that_shrinks_says_what_to_type(stack: NDArray[np.uint8], tmp_path: Path) -> None:
    save(tmp_path / "raw.zarr", stack[:9])
    config(tmp_path)
    nightly(tmp_path, level=None)
    shutil.rmtree(tmp_path / "raw.zarr")
    save(tmp_path / "raw.zarr", stack[:7])
    with pytest.raises(VolumeError, match=r"has 7 sections, it had 9(.|\n)*gone for good, put this store aside") as refused:
        nightly(tmp_path, level=None)
    command = refused.value.do.partition("makes a new one: ")[2]
    assert command in next(p.read_text() for p in sorted(tmp_path.glob("zmend.nightly/*.md"), reverse=True)), "the page says it, too"
    subprocess.run(shlex.split(command), check=True)
    assert nightly(tmp_path)[0]["verify"]["ok"] and voxels(tmp_path / "mended.zarr").shape[0] == 7


def test_pages_of_one_second_lie_in_order(stack: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "raw.zarr", stack[:6])
    config(tmp_path)
    monkeypatch.setattr("pipeline.nightly.time.strftime", lambda *_: "20261122T020001")
    names = [Path(nightly(tmp_path)[0]["page"]).name for _ in range(3)]
    assert names == sorted(names) and len(set(names)) == 3


def test_the_page_stays_a_page() -> None:
    rows = [{"z_start": z, "class": "fold", "note": "a\nb"} for z in range(500)]
    scan = {"looked_at": 500, "sections": 500, "added": 500, "gone": 0, "flags": "flags.csv", "new": rows, "held": list(range(99)), "moves": [{"section": 7, "far": "by 50 px (y +30, x -40)"}]}
    error = {"code": 75, "what": "stopped", "text": "stopped"}
    about = dict.fromkeys(("began", "ended", "version", "host", "volume", "output"), "x")
    text = page({**about, "scan": scan, "error": error, "explain": None})
    assert len(text.splitlines()) < 40 and f"and {500 - MOST} more" in text
