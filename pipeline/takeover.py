"""Takeover: from what is in force to what a plan asks for: which slabs stay, which are made again, what is retired."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import certificate, review, signature
from pipeline.attempts import OnEvent
from pipeline.errors import UsageError
from pipeline.files import Files
from pipeline.force import Survey, erase, retire, survey
from pipeline.foundation import drop_uncertainty
from pipeline.ids import Ids
from pipeline.job import Proposal, bound
from pipeline.kept import Kept
from pipeline.ledger import Ledger
from pipeline.lock import StoreLock
from pipeline.review import Order
from pipeline.state import State
from pipeline.store import made_arrays, read_attrs, update_attrs
from pipeline.verdicts import Verdicts


def named(prefixes: Sequence[str], ledger: Ledger) -> set[str]:
    """The recorded slabs whose ids begin so. Raises UsageError for one that names none."""
    found = {p: {i for i in ledger.ids() if i.startswith(p)} for p in prefixes}
    for prefix, slabs in found.items():
        if not slabs or not prefix:
            raise UsageError(f"no finished slab is called '{prefix}'", do="zmend verify names the slabs that it doubts")
    return set().union(*found.values())


def ordered(out: str, run_id: str, ledger: Ledger, verdicts: Verdicts, tell: OnEvent) -> dict[str, Order]:
    """What these verdicts ask for; they are kept with the run."""
    Files(out).put(f"zmend/runs/{run_id}/verdicts.csv", verdicts.text)
    found = review.orders(out, ledger, verdicts)
    if not verdicts.rejected:
        tell({"kind": "warning", "text": "these verdicts reject nothing: no slab is made again for them"})
    if same := len(verdicts.rejected) - len(found):
        text = f"{same} slabs were ordered anew by this very file before; to reject what came of it, write another note"
        tell({"kind": "warning", "text": text})
    return found


def would_order(proposal: Proposal, verdicts: Verdicts) -> dict[str, Any]:
    """What a run with these verdicts would make again, and what besides. Writes nothing."""
    plan, out = proposal.plan, proposal.config.output.path
    ledger = Ledger(out)
    new = review.orders(out, ledger, verdicts)
    known = review.read(out)
    besides = [s.id for s in plan.slabs.but(ledger.done()) if s.id not in new and s.id not in known]
    return {
        "output": out,
        "plan": plan.hash,
        "rejected": len(verdicts.rejected),
        "made_again": sorted(new),
        "ordered_before": len(verdicts.rejected) - len(new),
        "besides": len(besides),
        "dry_run": True,
    }


def find(
    proposal: Proposal, ledger: Ledger, run_id: str, redo: set[str], orders: dict[str, Order]
) -> tuple[Survey, set[str]]:
    """What is in force, and of that the slabs that the plan does not share or that are to be made again: asked for,
    with lost chunks, rejected, or given up for what may have passed.

    If that is not just the plan, it is noted, so that it can be gone back to; nothing else is changed.
    """
    plan, out = proposal.plan, proposal.config.output.path
    seen, table = survey(ledger, made_arrays(out)), review.read(out) | orders
    stale = redo | seen.broken | seen.passing | _not_in(plan.slabs.ids, seen.ids) | _rejected(table, seen)
    if stale or len(seen.ids) < len(plan.slabs) or read_attrs(out)["zmend"].get("head") != plan.hash:
        State.now(out, seen.made).keep(out, run_id)
    if orders:
        review.write(out, table)
    return seen, stale


def supersede(
    proposal: Proposal, ledger: Ledger, run_id: str, seen: Survey, stale: set[str], lock: StoreLock, tell: OnEvent
) -> None:
    """Put the plan in force. What goes is retired, and its chunks are kept."""
    plan, out = proposal.plan, proposal.config.output.path
    arrays = made_arrays(out)
    if stale or len(seen.ids) < len(plan.slabs) or read_attrs(out)["zmend"].get("head") != plan.hash:
        signature.take_away(out, run_id, tell)
    retire(ledger, stale, Kept(out, arrays, lock.held), run_id)
    erase(seen.strays, arrays)
    if not certificate.is_current(out, bound(plan)):
        certificate.forget(out)
    update_attrs(out, zmend={"head": plan.hash, "weights": plan.header["restorer"]["digest"]})
    if not proposal.config.recipe.uncertainty:
        drop_uncertainty(out, proposal.source, mode=proposal.config.output.mode)


def _not_in(wanted: NDArray[np.bytes_], ids: Ids) -> set[str]:
    """The ids that the plan does not share."""
    return set(Ids(ids.raw[Ids.of(wanted).at(ids.raw) < 0]))


def _rejected(table: dict[str, Order], seen: Survey) -> set[str]:
    """Slabs whose record is of another attempt than they are at now."""
    ids = seen.ids
    return {i for i, order in table.items() if i in ids and seen.attempts.get(i, 0) != order["attempt"]}
