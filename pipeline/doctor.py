"""Doctor: can this machine, the file system at a path, and a site do the job? Each finding says what to change."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.config import load, load_site
from pipeline.errors import ZmendError
from pipeline.fitness import examine_site, finding, loopback
from pipeline.job import propose
from pipeline.recipe import Recipe
from pipeline.restorer import load as load_restorer
from pipeline.site import Site

PINNED = {"dask": "2026.7.1", "distributed": "2026.7.1"}
LEAST_FREE = 1 << 30
DRIVER = Path("/proc/driver/nvidia/version")


def examine(subject: str, site: str | None = None) -> dict[str, Any]:
    """Look at packages, weights, GPU, file system and site. Returns {"ok", "findings": [{name, ok, detail, do}]}.

    subject: a folder for outputs, or a configuration: then its own site, and its job, are looked at. site: a site's
    file. Raises ConfigError.
    """
    folder, chosen, totals = _subject(Path(subject), site)
    about = examine_site(chosen, totals) if chosen else [loopback()]
    findings = [*_packages(), _weights(), _gpu(), *_file_system(folder), *about]
    return {"ok": all(f["ok"] for f in findings), "findings": findings}


def _subject(path: Path, site: str | None) -> tuple[Path, Site | None, dict[str, int] | None]:
    """The folder that is written in, the site, and what the job is in all."""
    if not path.is_file():
        return path, load_site(site, str(path / "out.zarr")) if site else None, None
    config = load(path, site)
    out = config.output.path
    folder = Path(config.site.folder or ".").parent if "://" in out else Path(out).parent
    return folder, config.site, propose(config).plan.header["totals"]


def _packages() -> list[dict[str, Any]]:
    found = []
    for name in ("zmend", "numpy", "zarr", "numcodecs", "dask", "distributed", "dask-jobqueue", "torch"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.append(
                finding(name, False, "not installed", "make env" if name != "torch" else "pip install torch==2.13.0")
            )
            continue
        wanted = PINNED.get(name, version)
        found.append(
            finding(name, version == wanted, version, f"pip install {name}=={wanted}: dask-cuda pins this release")
        )
    return found


def _weights() -> dict[str, Any]:
    try:
        _, needs = load_restorer(Recipe.model_validate({}), (45.0, 4.6, 4.6))
    except ZmendError as e:
        return finding("weights", False, e.what, e.do)
    return finding("weights", True, f"{needs.name} {needs.digest[:12]}")


def _gpu() -> dict[str, Any]:
    seen = sorted(p.name for p in Path("/dev").glob("nvidia[0-9]*"))
    if not seen:
        return finding("gpu", True, "none: the CPU is used")
    cuda = "here" if importlib.util.find_spec("dask_cuda") else "absent (pip install 'zmend[gpu]')"
    return finding("gpu", True, f"{len(seen)} NVIDIA devices, driver {_driver()}, dask-cuda {cuda}")


def _driver() -> str:
    """The version of NVIDIA's driver, as the kernel tells it."""
    try:
        words = DRIVER.read_text().split()
    except OSError:
        return "unknown"
    return next((w for w in words if w[0].isdigit() and "." in w), "unknown")


def _file_system(path: Path) -> list[dict[str, Any]]:
    if not path.is_dir():
        return [finding("path", False, f"{path} is not a folder", "give the folder that the output will lie in")]
    try:
        with tempfile.TemporaryDirectory(prefix=".zmend-doctor-", dir=path) as folder:
            tried = [_link(Path(folder)), _rename(Path(folder))]
    except OSError as e:
        return [finding("file system", False, str(e), "give a folder that you may write in")]
    free = shutil.disk_usage(path).free
    return [
        *tried,
        finding(
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
        return finding("link if absent", True, "atomic: records have one writer")
    except OSError as e:
        return finding("link if absent", False, str(e), "put the output on a file system with hard links")
    return finding("link if absent", False, "a link replaced a file", "put the output on a POSIX file system")


def _rename(folder: Path) -> dict[str, Any]:
    first, second = folder / "d", folder / "e"
    first.write_text("new")
    second.write_text("old")
    for path in (first, folder):  # a file's bytes, and its name in the folder
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    first.replace(second)
    return finding(
        "rename over",  # and fsync, which raises where it cannot
        second.read_text() == "new",
        "atomic: chunks appear whole",
        "put the output on a POSIX file system",
    )
