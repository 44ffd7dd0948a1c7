"""Neuroglancer, served by the real command, in a real browser: what its panels show is what the stores hold."""

from __future__ import annotations

import io
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import PATIENCE_MS
from tests.foreigners import OFFSET, write_n5, write_precomputed
from tests.jobs import ENSEMBLE, NM, Job, build, command, voxels

pytest.importorskip("neuroglancer")
PATIENCE_S = 150
ZOOM = 2  # px of the screen a voxel, as scenes of this size are
HERE = 48  # voxels across, of a patch beside the cross of axes in the middle


@pytest.fixture(scope="module", params=["volume", "overlay"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, chromium: Any) -> Iterator[tuple[Job, Any, str]]:
    """A mended phantom, the page that shows it, and the mode. Zarr v2 and a spread with `overlay`."""
    job = build(tmp_path_factory.mktemp("view"), **({} if request.param == "volume" else {"zarr_format": 2}))
    recipe = {"restorer": "linear"} if request.param == "volume" else ENSEMBLE
    job.run("out.zarr", recipe=recipe, certificate=0, output={"mode": request.param})
    with opened(job, chromium) as page:
        yield job, page, request.param


@contextmanager
def opened(job: Job, chromium: Any) -> Iterator[Any]:
    """The page that shows a job's output."""
    process = command("view", "out.zarr", "--json", cwd=job.folder)
    assert process.stdout is not None
    where = json.loads(process.stdout.readline())
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    page.goto(where["url"], timeout=PATIENCE_S * 1000)
    page.locator(".neuroglancer-rendered-data-panel").nth(3).wait_for(timeout=PATIENCE_S * 1000)
    yield page
    page.close()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    home = where["url"].split("/v/")[0]
    assert [u for u in asked if not u.startswith((home, "blob:", "data:"))] == [], "nothing leaves this machine"
    assert any(f"{home}/objects/" in u for u in asked)


def panels(page: Any) -> list[np.ndarray]:
    """The four panels as they look, uint8 (y, x, rgb): source xy, restored xy, source xz, restored xz."""
    screen = np.asarray(Image.open(io.BytesIO(page.screenshot(timeout=PATIENCE_MS))).convert("RGB"))
    found = page.locator(".neuroglancer-rendered-data-panel").all()
    boxes = [{k: round(v) for k, v in p.bounding_box().items()} for p in found]
    return [screen[b["y"] : b["y"] + b["height"], b["x"] : b["x"] + b["width"]] for b in boxes]


def patch(panel: np.ndarray) -> np.ndarray:
    """Grey values of voxels up and left of the middle of a panel: where neither axes nor boxes are drawn."""
    y, x = (n // 2 for n in panel.shape[:2])
    part = panel[y - 6 - HERE * ZOOM : y - 6, x - 6 - HERE * ZOOM : x - 6]
    return part.reshape(HERE, ZOOM, HERE, ZOOM, 3).mean(axis=(1, 3))


def likeness(panel: np.ndarray, section: np.ndarray) -> float:
    """Correlation of what is seen with a section of a store, at the best of a few shifts of half a voxel or so."""
    grey, (y, x) = patch(panel).mean(axis=2), (n // 2 for n in section.shape)
    here = [section[y - 3 - HERE + j :, x - 3 - HERE + i :][:HERE, :HERE] for j in (-1, 0, 1) for i in (-1, 0, 1)]
    return max(np.corrcoef(grey.ravel(), part.ravel())[0, 1] for part in here) if grey.std() > 0 else 0.0


def arrive(page: Any, z: int) -> None:
    """Wait until the page says that it is at this section: n and p ask the server, which takes a moment."""
    told = "document.querySelectorAll('.neuroglancer-position-dimension-coordinate')[2]?.value"
    page.wait_for_function(f"{told} === '{z}'", timeout=PATIENCE_S * 1000)


def mended(job: Job, mode: str) -> np.ndarray:
    """What the right panels show: the merged volume, or the overlay over the source."""
    if mode == "volume":
        return voxels(job.folder / "out.zarr")
    overlay = voxels(job.folder / "out.zarr", "overlay")
    return np.where(overlay > 0, overlay, job.damaged)


def eventually(page: Any, holds: Callable[[list[np.ndarray]], bool]) -> list[np.ndarray]:
    """The panels, once they are as they should be: chunks come when they come."""
    end = time.monotonic() + PATIENCE_S
    while not holds(now := panels(page)) and time.monotonic() < end:
        page.wait_for_timeout(500)
    return now


def test_the_panels_show_source_and_restored_section(seen: tuple[Job, Any, str]) -> None:
    job, page, mode = seen
    restored = mended(job, mode)[1]
    assert not job.damaged[1].any(), "section 1 is missing: black in the source"
    source, made, source_xz, made_xz = eventually(page, lambda p: likeness(p[1], restored) > 0.9)
    assert likeness(made, restored) > 0.9
    assert abs(patch(made).mean() - restored[60:150, 60:140].mean()) < 25, "and as bright as it is"
    assert np.ptp(patch(made), axis=2).max() < 3, "no colour lies over what is to be judged"
    masked = eventually(page, lambda p: np.ptp(patch(p[0]).mean(axis=(0, 1))) > 20)[0]
    assert np.ptp(patch(masked).mean(axis=(0, 1))) > 20, "the source is black under the mask's colour"
    assert np.abs(patch(source).mean() - patch(made).mean()) > 30
    rows = [p.mean(axis=2)[len(p) // 2 - 8 : len(p) // 2 + 8, 20:-20] for p in (source_xz, made_xz)]
    assert np.abs(rows[0] - rows[1]).mean() > 20, "cut along z, the section is dark on the left alone"


def test_keys_and_the_list_go_from_defect_to_defect(seen: tuple[Job, Any, str]) -> None:
    job, page, mode = seen
    restored = mended(job, mode)
    listed = page.locator(".neuroglancer-annotation-list-entry")
    assert page.locator(".neuroglancer-annotation-description").all_inner_texts() == [
        "1 missing, section 1, phantom", "2 fold, section 3, phantom", "3 crack, section 5, phantom", "4 missing, sections 11–12, phantom",
    ]  # fmt: skip
    for go, z in (("p", 11), ("n", 1), ("list", 5)):  # from the first one backwards: the last
        if go == "list":
            listed.nth(2).click(button="right")  # Neuroglancer's own way: it moves there
        else:
            page.keyboard.press(go)
        arrive(page, z)
        now = eventually(page, lambda p, z=z: likeness(p[1], restored[z]) > 0.9)
        assert likeness(now[1], restored[z]) > 0.9


def test_where_nothing_was_mended_both_panels_show_the_source(seen: tuple[Job, Any, str]) -> None:
    job, page, _ = seen
    page.keyboard.press("p")
    arrive(page, 11)
    page.mouse.click(200, 300)
    for _ in range(4):
        page.keyboard.press(".")  # Neuroglancer's key for the next section
    arrive(page, 15)
    whole = job.damaged[15]
    source, made, *_ = eventually(page, lambda p: min(likeness(p[0], whole), likeness(p[1], whole)) > 0.9)
    assert min(likeness(source, whole), likeness(made, whole)) > 0.9
    assert abs(patch(source).mean() - patch(made).mean()) < 2, "and not the one brighter than the other"


def test_a_spread_is_a_layer_that_can_be_shown(seen: tuple[Job, Any, str]) -> None:
    job, page, mode = seen
    names = page.locator(".neuroglancer-layer-item-label").all_inner_texts()
    assert {"source", "synthetic", "restored", "defects"} <= set(names)
    assert ("uncertainty" in names) == (mode == "overlay")
    if mode == "overlay":
        page.keyboard.press("n")
        arrive(page, 1)
        eventually(page, lambda p: likeness(p[1], mended(job, mode)[1]) > 0.9)
        before = patch(panels(page)[1])
        page.locator(".neuroglancer-layer-item-label", has_text="uncertainty").first.click()
        coloured = eventually(page, lambda p: np.ptp(patch(p[1]).mean(axis=(0, 1))) > 8)[1]
        assert np.ptp(patch(coloured).mean(axis=(0, 1))) > 8 and np.ptp(before.mean(axis=(0, 1))) < 3


@pytest.mark.parametrize("kind", ["precomputed", "n5"])
def test_a_source_that_is_not_zarr_lies_under_what_was_restored(kind: str, tmp_path: Path, chromium: Any) -> None:
    """Precomputed in shards, from an origin of its own, and an overlay; N5, and a merged volume."""
    job, mode = build(tmp_path), "overlay" if kind == "precomputed" else "volume"
    if kind == "precomputed":
        write_precomputed(tmp_path / "raw", [job.damaged], NM, sharding={})
    else:
        write_n5(tmp_path / "raw", job.damaged, NM)
    job.run("out.zarr", volume={"path": "raw"}, recipe={"restorer": "linear"}, certificate=0, output={"mode": mode})
    first = OFFSET[2] if kind == "precomputed" else 0  # the section that Neuroglancer calls 0
    with opened(job, chromium) as page:
        for keys, z in (("", 1), ("p", 11)):
            for key in keys:
                page.keyboard.press(key)
            arrive(page, first + z)
            restored = mended(job, mode)[z]
            source, made, *_ = eventually(page, lambda p, r=restored: likeness(p[1], r) > 0.9)
            assert likeness(made, restored) > 0.9 and abs(patch(source).mean() - patch(made).mean()) > 30
        page.mouse.click(200, 300)
        for _ in range(4):
            page.keyboard.press(".")  # the next section, four times: one that is intact
        arrive(page, first + 15)
        whole = job.damaged[15]
        source, made, *_ = eventually(page, lambda p: min(likeness(p[0], whole), likeness(p[1], whole)) > 0.9)
        assert min(likeness(source, whole), likeness(made, whole)) > 0.9
        assert np.abs(patch(source) - patch(made)).mean() < 2, "not by half a voxel do they lie apart"
