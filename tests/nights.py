"""Nights as they are: a volume that somebody else lets grow, `zmend nightly` called by a real scheduler, kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline.config import load
from pipeline.nightly import Nightly
from pipeline.verify import verify
from tests.jobs import command, voxels
from tests.test_detect import tissue
from tests.test_scan import save

EDGE, BAD = 128, (4, 9, 17, 20, 27)
DEPTHS = (13, 24, 31)  # none ends near a bad section: what is seen from one side only may be judged anew
SLABS = 4  # of a section


def damaged() -> NDArray[np.uint8]:
    stack = tissue(max(DEPTHS), EDGE)
    stack[list(BAD)] = 0
    return stack


class Nights:
    """A folder with a volume that grows, its configuration, and what the cycles make of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stack = folder, damaged()
        save(folder / "all.zarr", self.stack, (1, 64, 64))
        shutil.copytree(folder / "all.zarr", folder / "raw.zarr", ignore=shutil.ignore_patterns("c"))
        self.depth = 0
        self.grow(DEPTHS[0])
        self.config = self._config(folder)
        self.pages = folder / "zmend.nightly"

    @staticmethod
    def _config(folder: Path, volume: str = "raw.zarr") -> Path:
        body = {
            "volume": {"path": volume}, "flags": "flags.csv", "output": {"path": "mended.zarr", "chunk_px": 64},
            "recipe": {"restorer": "linear"}, "site": {"workers": 0, "slab_px": 64}, "certificate": 0,
        }  # fmt: skip
        (folder / "zmend.yaml").write_text(yaml.safe_dump(body))
        return folder / "zmend.yaml"

    def grow(self, depth: int) -> None:
        """First the chunks, then the document that tells of them: nobody sees a section that is not there yet."""
        for z in range(self.depth, depth):
            shutil.copytree(self.folder / "all.zarr/c" / str(z), self.folder / "raw.zarr/c" / str(z))
        document = json.loads((self.folder / "all.zarr/zarr.json").read_text())
        aside = self.folder / "new.json"
        aside.write_text(json.dumps({**document, "shape": [depth, EDGE, EDGE]}))
        aside.replace(self.folder / "raw.zarr/zarr.json")
        self.depth = depth

    def render(self, kind: str, *args: str) -> str:
        """What the command prints."""
        made = command("nightly", str(self.config), "--render", kind, *args, cwd=self.folder)
        out, err = made.communicate(timeout=120)
        assert made.returncode == 0, err
        return out

    def until(self, ready: Callable[[], Any], what: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < end, f"not within {seconds} s: {what}\n{self.logs()}"
            time.sleep(0.05)

    def mended(self) -> None:
        """Wait until a cycle has told of all sections that there are now."""
        self.until(self._told, f"{self.depth} sections are mended")

    def _told(self) -> bool:
        heads = [p.read_text().split("## ")[0] for p in self.pages.glob("*.md")]
        good = ("# zmend nightly: done\n", "# zmend nightly: nothing new\n")
        return any(head.startswith(good) and f": {self.depth} sections" in head for head in heads)

    def kill(self) -> None:
        """SIGKILL to a cycle that has begun to restore."""
        before = self.finished()
        self.until(lambda: self.finished() > before, "a cycle is at work")
        self.until(lambda: (self.pages / "lock").exists(), "a cycle holds the lock")
        os.kill(json.loads((self.pages / "lock").read_bytes())["pid"], signal.SIGKILL)

    def finished(self) -> int:
        """Slabs that have a record."""
        return len(list(self.folder.glob("mended.zarr/zmend/records/??/*.json")))

    def worked_on(self) -> Counter[tuple[int, str]]:
        """Section and id of each slab that was restored, over all nights."""
        logs = [line for log in self.folder.glob("mended.zarr/zmend/runs/*/log.jsonl") for line in log.read_text().splitlines()]
        return Counter((e["write"][0][0], e["slab"]) for e in map(json.loads, logs) if e["kind"] == "slab")

    def logs(self) -> str:
        files = [*self.pages.glob("*.md"), *self.pages.glob("*.log")]
        return "\n".join(f"--- {p.name}\n{p.read_text()[-1500:]}" for p in sorted(files))

    def ends_as_one_go(self) -> None:
        """What all nights together have made is what one cycle makes of the whole volume, and no slab was done twice."""
        done = self.worked_on()
        assert set(done.values()) == {1}, "a slab was done again"
        assert {z for z, _ in done} == set(BAD), "new slabs, and no others"
        assert self.finished() == len(BAD) * SLABS
        assert self.finished() - done.total() <= 1, "of one, the kill may have come between its record and the log"
        assert not list(self.folder.glob("mended.zarr/zmend/records/ret*/*")), "nothing was taken back"
        assert verify(str(self.folder / "mended.zarr"), replay=2)["ok"]
        once = self.folder / "once"
        once.mkdir()
        told = Nightly(load(self._config(once, str(self.folder / "raw.zarr"))), once / "zmend.nightly").cycle()
        assert told["verify"]["ok"]
        for what in ("merged", "labels", "overlay"):
            np.testing.assert_array_equal(voxels(self.folder / "mended.zarr", what), voxels(once / "mended.zarr", what))
        assert voxels(self.folder / "mended.zarr")[BAD[-1]].any()
