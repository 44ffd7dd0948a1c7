"""Review: which slabs were rejected, and which attempt each is at. An attempt has a seed of its own.

zmend/review.json     {"schema", "slabs": {id: {"attempt", "rejected", "verdicts"}}}

What was rejected is never made with the rejected seed again, by whichever run: the first attempt is the recipe's seed,
the one after n rejections that seed plus n.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.errors import VolumeError
from pipeline.files import Files
from pipeline.ledger import Ledger
from pipeline.verdicts import Verdicts

Order = dict[str, Any]
REJECTED = "rejected: "  # how the reason begins for which a slab is left that was not accepted
KEY, SCHEMA = "zmend/review.json", "zmend-review/1"


def read(out: str) -> dict[str, Order]:
    """Of each slab that was rejected: the attempt it is at, why, and the sha256 of the verdicts that said so.

    Raises VolumeError where the document cannot be read.
    """
    raw = Files(out).read(KEY)
    if raw is None:
        return {}
    try:
        slabs = json.loads(raw)["slabs"]
        return {str(i): {"attempt": int(o["attempt"]), **{k: str(o[k]) for k in TOLD}} for i, o in slabs.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise VolumeError(
            "what was rejected in this store cannot be read",
            where=Files(out).at(KEY),
            why=f"{type(e).__name__}: {e}",
            do="bring the file back from a copy; deleted, rejected slabs that are still to be made get the first seed",
        ) from e


TOLD = ("rejected", "verdicts")  # of an order, in the record


def write(out: str, slabs: dict[str, Order]) -> None:
    """Replace the document: whole and durable."""
    Files(out).keep(KEY, text(slabs).encode())


def text(slabs: dict[str, Order]) -> str:
    """The document as it is written."""
    return json.dumps({"schema": SCHEMA, "slabs": slabs}, sort_keys=True, indent=1)


def orders(out: str, ledger: Ledger, verdicts: Verdicts) -> dict[str, Order]:
    """What these verdicts ask for that is not ordered yet: by slab, its next attempt. The same file asks once."""
    table = read(out)
    new = {i: why for i, why in verdicts.rejected.items() if table.get(i, {}).get("verdicts") != verdicts.digest}
    tried = _tried(ledger, {i: table.get(i, {}).get("attempt", 0) for i in new})
    return {i: {"attempt": tried[i] + 1, "rejected": why, "verdicts": verdicts.digest} for i, why in new.items()}


def left_by_review(record: Mapping[str, Any]) -> bool:
    """Whether a slab is left as it was because a reviewer did not accept it; not because workers gave it up."""
    return bool(record.get("given_up")) and any(part["why"].startswith(REJECTED) for part in record["left"])


def _tried(ledger: Ledger, now: dict[str, int]) -> dict[str, int]:
    """The highest attempt that each slab was ever at, those that were reverted counted. now: the present ones."""
    tried = dict(now)
    for record in ledger.history(now):
        tried[record["slab"]] = max(tried[record["slab"]], int(record.get("attempt", 0)))
    return tried
