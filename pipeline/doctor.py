"""Doctor: can this machine, and the file system at a path, do the job? Each finding says what to change."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.errors import ZmendError
from pipeline.recipe import Recipe
from pipeline.restorer import load

PINNED = {"dask": "2026.7.1", "distributed": "2026.7.1"}
LEAST_FREE = 1 << 30


def examine(path: str) -> dict[str, Any]:
    """Look at packages, weights, GPU and file system. Returns {"ok", "findings": [{name, ok, detail, do}]}."""
    findings = [*_packages(), _weights(), _gpu(), *_file_system(Path(path))]
    return {"ok": all(f["ok"] for f in findings), "findings": findings}


def _finding(name: str, ok: bool, detail: str, do: str = "") -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail, "do": "" if ok else do}


def _packages() -> list[dict[str, Any]]:
    found = []
    for name in ("zmend", "numpy", "zarr", "numcodecs", "dask", "distributed", "torch"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.append(
                _finding(name, False, "not installed", "make env" if name != "torch" else "pip install torch==2.13.0")
            )
            continue
        wanted = PINNED.get(name, version)
        found.append(
            _finding(name, version == wanted, version, f"pip install {name}=={wanted}: dask-cuda pins this release")
        )
    return found


def _weights() -> dict[str, Any]:
    try:
        _, needs = load(Recipe.model_validate({}), (45.0, 4.6, 4.6))
    except ZmendError as e:
        return _finding("weights", False, e.what, e.do)
    return _finding("weights", True, f"{needs.name} {needs.digest[:12]}")


def _gpu() -> dict[str, Any]:
    seen = sorted(p.name for p in Path("/dev").glob("nvidia[0-9]*"))
    cuda = importlib.util.find_spec("dask_cuda") is not None
    return _finding(
        "gpu",
        True,
        f"{len(seen)} NVIDIA devices, dask-cuda {'here' if cuda else 'absent'}" if seen else "none: the CPU is used",
    )


def _file_system(path: Path) -> list[dict[str, Any]]:
    if not path.is_dir():
        return [_finding("path", False, f"{path} is not a folder", "give the folder that the output will lie in")]
    try:
        with tempfile.TemporaryDirectory(prefix=".zmend-doctor-", dir=path) as folder:
            tried = [_link(Path(folder)), _rename(Path(folder))]
    except OSError as e:
        return [_finding("file system", False, str(e), "give a folder that you may write in")]
    free = shutil.disk_usage(path).free
    return [
        *tried,
        _finding(
            "free space",
            free > LEAST_FREE,
            f"{free / 2**30:.1f} GiB",
            "free some: zmend plan says how much a job writes",
        ),
    ]


def _link(folder: Path) -> dict[str, Any]:
    first, second = folder / "a", folder / "b"
    first.write_text("a")
    second.write_text("b")
    try:
        os.link(first, folder / "c")
        os.link(second, folder / "c")
    except FileExistsError:
        return _finding("link if absent", True, "atomic: records have one writer")
    except OSError as e:
        return _finding("link if absent", False, str(e), "put the output on a file system with hard links")
    return _finding("link if absent", False, "a link replaced a file", "put the output on a POSIX file system")


def _rename(folder: Path) -> dict[str, Any]:
    first, second = folder / "d", folder / "e"
    first.write_text("new")
    second.write_text("old")
    with first.open("rb") as f:
        os.fsync(f.fileno())
    first.replace(second)
    return _finding(
        "rename over",
        second.read_text() == "new",
        "atomic: chunks appear whole",
        "put the output on a POSIX file system",
    )
