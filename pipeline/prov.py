"""Prov: one run in W3C PROV-JSON (https://www.w3.org/submissions/prov-json/): who made what, from what, with what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.account import account
from pipeline.errors import UsageError

Json = dict[str, Any]


def write_prov(out: str, file: str, run: str = "") -> Json:
    """Write the PROV-JSON of a run (empty: the last) to a new file. Raises UsageError where one is there."""
    found, target = account(out, run), Path(file)
    if target.exists():
        raise UsageError(f"{file} is there already", why="it would be lost", do="name another file")
    target.write_text(json.dumps(document(found), indent=1))
    return {"prov": str(target), "run": found["run"], "records": len(found["records"])}


def document(found: Json) -> Json:
    """PROV-JSON of a run."""
    plan, run = found["plan"], f"zmend:run/{found['run']}"
    source, weights, flags, mended = "zmend:source", "zmend:weights", "zmend:flags", "zmend:output"
    entities = {
        source: _about("source volume", where=plan["source"]["uri"], fingerprint=plan["source"]["fingerprint"]),
        weights: _about(plan["restorer"]["name"], sha256=plan["restorer"]["digest"], where=plan["recipe"]["weights"]),
        flags: _about("flags", digest=plan["flags"]["digest"], count=plan["flags"]["count"]),
        "zmend:plan": _about("plan", digest=plan["hash"], recipe=plan["recipe_digest"], seed=plan["recipe"]["seed"])
        | {"prov:type": {"$": "prov:Plan", "type": "prov:QUALIFIED_NAME"}},
        mended: _about("mended volume", where=found["output"], voxels_restored=found["voxels_restored"])
        | {f"zmend:slabs_{status}": n for status, n in found["status"].items()},
    }
    version = found["environment"].get("packages", {}).get("zmend", "unknown")
    agent = {"prov:type": {"$": "prov:SoftwareAgent", "type": "prov:QUALIFIED_NAME"}, "zmend:version": version}
    return {
        "prefix": {"zmend": "urn:zmend:"},
        "entity": entities,
        "activity": {run: {"prov:startTime": found["began"], "prov:endTime": found["ended"]}},
        "agent": {"zmend:software": agent},
        "used": {f"_:u{n}": {"prov:activity": run, "prov:entity": e} for n, e in enumerate((source, weights, flags))},
        "wasGeneratedBy": {"_:g": {"prov:entity": mended, "prov:activity": run}},
        "wasAssociatedWith": {"_:a": {"prov:activity": run, "prov:agent": "zmend:software", "prov:plan": "zmend:plan"}},
        "wasDerivedFrom": {"_:d": {"prov:generatedEntity": mended, "prov:usedEntity": source, "prov:activity": run}},
    }


def _about(label: str, **facts: Any) -> Json:
    return {"prov:label": label} | {f"zmend:{k}": v for k, v in facts.items()}
