"""Crate: one run as an RO-Crate (1.1, profile Process Run Crate 0.5): a folder with documents and records, no voxels.

RO-Crate is a JSON-LD file beside the data; it is written here as it stands in the specification.
https://w3id.org/ro/crate/1.1, https://w3id.org/ro/wfrun/process/0.5
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.account import account, documents
from pipeline.errors import UsageError
from pipeline.files import Files
from pipeline.packfile import encode, write
from pipeline.packs import FIRST

Json = dict[str, Any]
CRATE, PROCESS = "https://w3id.org/ro/crate/1.1", "https://w3id.org/ro/wfrun/process/0.5"
ABOUT = {
    "config.json": ("the configuration that was asked for", "application/json"),
    "environment.json": ("packages, processor, GPUs, driver, determinism", "application/json"),
    "plan.json": ("the plan: recipe, weights, every slab", "application/json"),
    "flags.csv": ("what was missing or damaged", "text/csv"),
    "records.parquet": ("a record of every slab that the run restored", "application/vnd.apache.parquet"),
}


def write_crate(out: str, folder: str, run: str = "") -> Json:
    """Write the crate of a run (empty: the last) into a new folder. Returns what it holds.

    Raises UsageError where the folder holds something already, or the store has no such run.
    """
    found, target = account(out, run), Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{folder} holds something already", why="it would be lost", do="name a new folder")
    files = {name: Files(out).read(key) for name, key in documents(found).items()}
    files["records.parquet"] = write([encode(r) for r in found["records"]], [], FIRST)
    kept = {name: body for name, body in files.items() if body is not None}
    target.mkdir(parents=True, exist_ok=True)
    for name, body in kept.items():
        (target / name).write_bytes(body)
    (target / "ro-crate-metadata.json").write_text(json.dumps(metadata(found, kept), indent=1))
    records = len(found["records"])
    each = round(len(kept["records.parquet"]) / records, 1) if records else 0
    return {"crate": str(target), "run": found["run"], "records": records, "bytes_per_record": each}


def metadata(found: Json, kept: dict[str, bytes]) -> Json:
    """The JSON-LD of a run. kept: the files of the crate and what is in them."""
    return {"@context": f"{CRATE}/context", "@graph": [*_frame(found, kept), *_what(found), *map(_file, kept.items())]}


def _frame(found: Json, kept: dict[str, bytes]) -> list[Json]:
    descriptor = {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "conformsTo": {"@id": CRATE},
        "about": {"@id": "./"},
    }
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"zmend run {found['run']}",
        "description": f"Restoration of missing and damaged sections: {found['voxels_restored']} synthetic voxels, a "
        "record for each of them. The voxels themselves are not in here.",
        "datePublished": found["ended"] or found["began"],
        "license": {"@id": "#terms"},
        "conformsTo": {"@id": PROCESS},
        "hasPart": [{"@id": name} for name in kept],
        "mentions": {"@id": f"#{found['run']}"},
    }
    terms = {
        "@id": "#terms",
        "@type": "CreativeWork",
        "name": "Terms of the source volume and of the weights",
        "description": "zmend does not know the licence of your volume: what was made from it is bound by it.",
    }
    profile = {"@id": PROCESS, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    return [descriptor, root, terms, profile]


def _what(found: Json) -> list[Json]:
    """The run, the software, and what went in and came out."""
    plan, version = found["plan"], found["environment"].get("packages", {}).get("zmend", "unknown")
    restorer = plan["restorer"]
    action = {
        "@id": f"#{found['run']}",
        "@type": "CreateAction",
        "name": f"zmend run {found['run']}",
        "instrument": {"@id": _software(version)},
        "object": [{"@id": i} for i in ("#source", "#weights", "flags.csv", "config.json", "plan.json")],
        "result": [{"@id": i} for i in ("#output", "records.parquet")],
        "startTime": found["began"],
        "endTime": found["ended"],
        "actionStatus": {"@id": f"http://schema.org/{'Completed' if found['finished'] else 'Failed'}ActionStatus"},
        "description": f"recipe {plan['recipe_digest']}, seed {plan['recipe']['seed']}, plan {plan['hash']}",
    }
    return [
        action,
        {"@id": _software(version), "@type": "SoftwareApplication", "name": "zmend", "softwareVersion": version},
        _thing("#source", "source volume", plan["source"]["uri"], f"fingerprint {plan['source']['fingerprint']}"),
        _thing("#weights", restorer["name"], plan["recipe"]["weights"], f"digest {restorer['digest']}"),
        _thing("#output", "mended volume", found["output"], f"{found['voxels_restored']} synthetic voxels by this run"),
    ]


def _software(version: str) -> str:
    return f"urn:zmend:software:{version}"


def _thing(name: str, what: str, where: str, about: str) -> Json:
    return {"@id": name, "@type": "CreativeWork", "name": what, "identifier": where, "description": about}


def _file(item: tuple[str, bytes]) -> Json:
    name, body = item
    about, form = ABOUT[name]
    size = {"contentSize": str(len(body)), "encodingFormat": form, "sha256": sha256(body).hexdigest()}
    return {"@id": name, "@type": "File", "name": about, **size}
