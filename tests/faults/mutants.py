"""Mutants: small changes of meaning in code that trust rests on, each with the tests that must notice it.

A comparison that is skipped, a digest that is not looked at, a fence that nobody asks, an order that is turned round.
`was` stands once in the file. python -m tests.faults.mutations makes them one by one, in a copy.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One change of one file."""

    file: str  # in pipeline/
    was: str
    now: str
    tests: str  # files in tests/, the likeliest first


VERIFY = "test_lineage.py test_verify.py test_independent.py"
REVERT = "test_state.py test_prune.py test_revert.py test_review.py test_signature.py"
DIGESTS = "test_digests.py test_verify.py test_independent.py"
SEAL = "test_lineage.py test_seal.py test_independent.py"
LOCK = "test_lock.py test_ledger.py faults/test_racing.py faults/test_writer_race.py"
RUN = "test_attempts.py test_run.py test_growing.py test_explain.py"

MUTANTS = [
    # lineage: records and documents
    Mutant("lineage.py", "spoiled.append(f\"slab {slab.id}: {e.what}: {e.why}\")", "pass", VERIFY),
    Mutant("lineage.py", "{s.write} has no record: run again\" for s in _waiting(plan, records)]", "{s.write} has no record: run again\" for s in ()]", VERIFY),
    Mutant("lineage.py", "if volume_mode and merge is None:", "if False:", VERIFY),
    Mutant("lineage.py", "if who := holder(out):", "if who := \"\":", VERIFY),
    Mutant("lineage.py", "if not late and broken(out):", "if False:", VERIFY),
    Mutant("lineage.py", "if late and not spoiled and merge is None:", "if late and merge is None:", VERIFY),
    Mutant("lineage.py", "if late and not spoiled and merge is None:", "if late and not spoiled:", VERIFY),
    Mutant("lineage.py", "check.findings += late + job.ledger.packs.faults()", "check.findings += late", VERIFY + " test_packs.py"),
    Mutant("lineage.py", "if merge is not None and merge[\"source_manifest\"] != source_manifest(job.source):", "if False:", VERIFY),
    Mutant("lineage.py", "if job.source.fingerprint() != plan.header[\"source\"][\"fingerprint\"]:", "if False:", VERIFY),
    Mutant("lineage.py", "if (refused := proven(job.restorer)) is not None:", "if (refused := None) is not None:", VERIFY),
    # lineage: the walk from voxels to records
    Mutant("lineage.py", "if not made_as(record, job.bound):", "if False:", VERIFY),
    Mutant("lineage.py", "if Slab.of([slab, *record[\"write\"], *record[\"read\"]]) not in plan.slabs:", "if False:", VERIFY),
    Mutant("lineage.py", "for box, a, b in known.twice()]", "for box, a, b in ()]", VERIFY),
    Mutant("lineage.py", "return [box for box in boxes if not self._is_one(box)]", "return []", VERIFY),
    Mutant("lineage.py", "return bool(inside) and [", "return bool(inside) or [", VERIFY),
    Mutant("lineage.py", "((job.labels, \"label\"), (job.overlay, \"overlay\"), (job.uncertainty, \"uncertainty\"))", "((job.labels, \"label\"), (job.uncertainty, \"uncertainty\"))", VERIFY),
    Mutant("lineage.py", "((job.labels, \"label\"), (job.overlay, \"overlay\"), (job.uncertainty, \"uncertainty\"))", "((job.overlay, \"overlay\"), (job.uncertainty, \"uncertainty\"))", VERIFY),
    Mutant("lineage.py", "((job.labels, \"label\"), (job.overlay, \"overlay\"), (job.uncertainty, \"uncertainty\"))", "((job.labels, \"label\"), (job.overlay, \"overlay\"))", VERIFY),
    Mutant("lineage.py", "known = known[np.frombuffer(self._spread, bool)] if spread and len(known) else known", "pass", VERIFY),
    Mutant("lineage.py", "bytes(len(c) > 4 for c in chunks)", "bytes(len(c) > 3 for c in chunks)", VERIFY),
    Mutant("lineage.py", "all(any((b & w).size for w in places) for b in found)", "any(any((b & w).size for w in places) for b in found)", VERIFY),
    Mutant("lineage.py", "if found and len(found) == len(check.findings) and all", "if found and all", VERIFY),
    Mutant("lineage.py", "& (stop[one] > z[two])", "& (stop[one] > z[two] + 1)", VERIFY),
    Mutant("lineage.py", "shared = (y[one] == y[two]) & (x[one] == x[two])", "shared = (y[one] == y[two]) & (x[one] != x[two])", VERIFY),
    Mutant("lineage.py", "matches = look(slab, job).inputs_sha256 == records[slab.id][\"inputs_sha256\"]", "matches = bool(look(slab, job).inputs_sha256)", VERIFY),
    Mutant("lineage.py", "check.findings.append(f\"slab {slab.id}: {first(e)}\")", "pass", VERIFY),
    # digests, identity, replay
    Mutant("digests.py", "if sha256(array.tobytes()).hexdigest() != digest", "if False", DIGESTS),
    Mutant("digests.py", "* (len(said) != len(arrays))", "* 0", DIGESTS),
    Mutant("digests.py", "if Counter({int(k): n for k, n in recorded.items()}) != Counter({**sums, 0: 0}):", "if False:", DIGESTS),
    Mutant("digests.py", "(marks > 0) & (flagged(", "(marks > 9) & (flagged(", DIGESTS),
    Mutant("digests.py", "beyond = int(((spread > 0) & ~made).sum())", "beyond = 0", DIGESTS),
    Mutant("digests.py", "lost = job.uncertainty is not None and counts is None and bool(made.any())", "lost = False", DIGESTS),
    Mutant("identity.py", "if not kept.all() else 0", "if kept.any() and False else 0", DIGESTS),
    Mutant("identity.py", "return 0, 0, first(e)", "return 0, 0, \"\"", DIGESTS),
    Mutant("identity.py", "wrong.update(voxels=voxels, labels=labels)", "wrong.update(voxels=voxels)", DIGESTS + " test_merge.py"),
    Mutant("replay.py", "if made.get(b) != said.get(b)", "if False", DIGESTS),
    Mutant("replay.py", "if result.inputs_sha256 != record[\"inputs_sha256\"]:", "if False:", DIGESTS),
    Mutant("replay.py", "if found[\"bound\"] != job.bound:", "if False:", "test_certificate.py " + DIGESTS),
    # seal
    Mutant("seal.py", "good = said == digest(body) and raw == _text(body)", "good = said == digest(body)", SEAL),
    Mutant("seal.py", "good = said == digest(body) and raw == _text(body)", "good = raw == _text(body) or said != digest(body)", SEAL),
    Mutant("seal.py", "elif self._good:", "elif True:", SEAL),
    Mutant("seal.py", "    held()\n    if _said(out)", "    if _said(out)", SEAL + " faults/test_faults.py"),
    Mutant("seal.py", "yield from (*REMADE, \"zmend/review.json\")", "yield from REMADE", SEAL + " test_review.py"),
    Mutant("seal.py", "            if wrong in REMADE:", "            if False:", SEAL),
    # state and records in force
    Mutant("state.py", "Files(out).create(_key(run), json.dumps(self.document()).encode())", "Files(out).put(_key(run), json.dumps(self.document()).encode())", REVERT),
    Mutant("state.py", "Files(out).create(_key(run), json.dumps(self.document()).encode())", "pass", REVERT),
    Mutant("state.py", "                files.delete(BESIDE[name])", "                pass", REVERT),
    Mutant("state.py", "    if said != digest(body):", "    if False:", REVERT),
    Mutant("takeover.py", "    if stale or len(seen.ids) < len(plan.slabs) or read_attrs(out)[\"zmend\"].get(\"head\") != plan.hash:\n        State", "    if stale or read_attrs(out)[\"zmend\"].get(\"head\") != plan.hash:\n        State", REVERT),
    Mutant("takeover.py", "redo | seen.broken | seen.passing |", "redo | seen.broken |", RUN),
    Mutant("takeover.py", "redo | seen.broken | seen.passing |", "redo | seen.passing |", "test_verify.py " + RUN),
    Mutant("takeover.py", "seen.attempts.get(i, 0) != order[\"attempt\"]", "seen.attempts.get(i, 0) > order[\"attempt\"]", REVERT),
    Mutant("force.py", "        _whole(shared, alike, here, shape)  # a run", "        pass  # a run", REVERT + " properties/test_machine.py"),
    Mutant("force.py", "if at == len(now) or now[at] != _code(record[\"write\"][0], shape):", "if True:", REVERT),
    Mutant("force.py", "for present in here[:count]:", "for present in here[:1]:", REVERT + " test_verify.py test_uncertainty.py"),
    Mutant("force.py", "if shared.get(\"may_pass\") else ()", "", RUN),
    Mutant("kin.py", "return made_as(record, bound) and (not", "return (not", REVERT + " test_growing.py test_run.py"),
    Mutant("kin.py", "(not record.get(\"given_up\") or \"verdicts\" in record)", "True", RUN),
    Mutant("shift.py", "if record[\"inputs_sha256\"] == read[\"inputs_sha256\"]:", "if True:", RUN),
    # what may pass
    Mutant("attempts.py", "PASSING = (\"transient\", \"lost\", \"memory\")", "PASSING = (\"transient\", \"lost\", \"memory\", \"error\")", RUN + " test_crew.py"),
    Mutant("attempts.py", "PASSING = (\"transient\", \"lost\", \"memory\")", "PASSING = (\"transient\", \"memory\")", RUN + " test_crew.py"),
    Mutant("attempts.py", "return Verdict(tries < self.budgets.transient,", "return Verdict(tries <= self.budgets.transient,", RUN),
    Mutant("attempts.py", "and len(workers) < AGREE", "and len(workers) <= AGREE", RUN),
    Mutant("attempts.py", "failure.cause != \"transient\" or tries > AGREE", "failure.cause != \"transient\"", RUN),
    Mutant("attempts.py", "\"fatal\" if error.errno in NO_ROOM else", "\"fatal\" if error.errno in NO_ROOM[:2] else", RUN),
    Mutant("shift.py", "if failure.cause in PASSING]", "]", RUN),
    Mutant("shift.py", "{**orders.get(i, {}), \"may_pass\": True}", "{\"may_pass\": True}", RUN + " test_review.py"),
    # kept, revert, prune
    Mutant("kept.py", "same = held is not None and voxels_sha256(held.read(box)) == digest", "same = held is not None", REVERT),
    Mutant("kept.py", "if voxels_sha256(array.read(box)) != digest:", "if False:", REVERT),
    Mutant("kept.py", "if not there and (raw := array.files.read(key)) is not None:", "if (raw := array.files.read(key)) is not None:", REVERT),
    Mutant("kept.py", "if not re.fullmatch(r\"[\\w-]+\", run):", "if False:", REVERT + " test_security.py"),
    Mutant("kept.py", "is not None and raw != self.files.read(f\"{place}/{name}\"):", "is not None and self.files.read(f\"{place}/{name}\") is None:", REVERT + " test_growing.py"),
    Mutant("revert.py", "if here.get(i) != made_by}\n    return", "if i not in here}\n    return", REVERT),
    Mutant("revert.py", "if wanted.get(i) != made_by} | seen.broken", "if wanted.get(i) != made_by}", REVERT),
    Mutant("revert.py", "if plan.hash != then.head:", "if False:", REVERT),
    Mutant("revert.py", "if set(Ids.of(plan.slabs.ids)) != then.records().keys():", "if False:", REVERT),
    Mutant("revert.py", "if record[\"run\"] == missing[record[\"slab\"]]:", "if True:", REVERT),
    Mutant("revert.py", "    lost = [f\"the record of slab {i} by run {run} is gone\" for i, run in missing.items() if i not in found]", "    lost: list[str] = []", REVERT),
    Mutant("revert.py", "    _check_source(found, plan, job)\n", "", REVERT),
    Mutant("revert.py", "        now.keep(out, run_id)\n", "", REVERT),
    Mutant("revert.py", "        kept.hold(record)\n", "        pass\n", REVERT),
    Mutant("revert.py", "    erase(seen.strays, arrays)\n", "", REVERT + " properties/test_machine.py"),
    Mutant("revert.py", "                for new in set(folder.names() or ()) - names:", "                for new in ():", REVERT),
    Mutant("prune.py", "        if broken(out):", "        if False:", REVERT),
    Mutant("prune.py", "runs[len(runs) - min(reverts, len(runs)) :]", "runs[len(runs) - min(reverts, len(runs)) + 1 :]", REVERT),
    Mutant("prune.py", "if (record[\"slab\"], record[\"run\"]) in wanted}", "if record[\"slab\"] in {s for s, _ in wanted}}", REVERT),
    Mutant("prune.py", "return str(record[\"run\"]), tuple(record[\"write\"][0])", "return str(record[\"run\"]), (record[\"slab\"],)", REVERT),
    # lock and fences
    Mutant("lock.py", "    if now != name:", "    if not now:", LOCK + " test_worker.py"),
    Mutant("lock.py", "if (elsewhere or _alive(holder)) and not lost:", "if _alive(holder) and not lost:", LOCK),
    Mutant("lock.py", "            if self.files.read(key) != raw:", "            if False:", LOCK),
    Mutant("lock.py", "if not self.files.create(guard, self._mine) and not self._evict(guard):", "if not self.files.create(guard, self._mine) and False:", LOCK),
    Mutant("lock.py", "_started(pid) == holder.get(\"started\")", "_started(pid) != \"\"", LOCK),
    Mutant("lock.py", "return \"\" if fields[0] == \"Z\" else", "return", LOCK),
    Mutant("lock.py", "then[2] < now[2])", "then[2] <= now[2])", LOCK + " slurm/test_nightly.py"),
    Mutant("lock.py", "if not (then and now and then[0] == now[0]):", "if not (then and now):", LOCK + " slurm/test_nightly.py"),
    Mutant("lock.py", "        if self.files.read(self.key) == self._mine:", "        if True:", LOCK),
    Mutant("ledger.py", "        reach(\"record\", record[\"slab\"])\n        self._fence()\n", "        reach(\"record\", record[\"slab\"])\n", LOCK + " test_worker.py faults/test_faults.py"),
    Mutant("packs.py", "            reach(\"pack\", f\"pack {number}\")\n            self._fence()\n", "            reach(\"pack\", f\"pack {number}\")\n", LOCK + " test_packs.py faults/test_faults.py"),
    Mutant("ledger.py", "            reach(\"pack\", slab_id)\n            self._fence()\n", "            reach(\"pack\", slab_id)\n", LOCK + " test_packs.py faults/test_faults.py"),
    Mutant("worker.py", "if post.lock and name in (\"chunk\", \"record\"):", "if post.lock and name == \"chunk\":", "test_worker.py::test_the_lock_is_asked_for_before_each_chunk_and_the_record"),
    Mutant("worker.py", "if post.lock and name in (\"chunk\", \"record\"):", "if post.lock and name == \"record\":", "test_worker.py::test_the_lock_is_asked_for_before_each_chunk_and_the_record"),
    Mutant("kept.py", "        moved = []\n        self._fence()\n", "        moved = []\n", LOCK + " test_revert.py faults/test_faults.py"),
    Mutant("rest.py", "    fence()\n    _sweep(target, kept)", "    _sweep(target, kept)", LOCK + " test_merge.py faults/test_faults.py"),
    # packs
    Mutant("packs.py", "if sha256(raw).hexdigest() == name[9:73]:", "if True:", "test_packs.py"),
    Mutant("packs.py", "(known and previous(self._raw(name)) != before)", "False", "test_packs.py"),
    Mutant("packs.py", "if int(name[:8]) != number or", "if", "test_packs.py"),
    Mutant("packs.py", "there = last_of_each(raw) & ~gone", "there = last_of_each(raw)", "test_packs.py"),
    Mutant("packs.py", "return sorted({*self._listed(), *_packs((self._records / \"spoiled\").names())})", "return self._listed()", "test_packs.py"),
    Mutant("ledger.py", "if said != digest(record) or record[\"slab\"] != slab_id or raw != _text(record):", "if said != digest(record) or raw != _text(record):", "test_ledger.py test_verify.py test_packs.py test_independent.py"),
    Mutant("ledger.py", "if said != digest(record) or record[\"slab\"] != slab_id or raw != _text(record):", "if said != digest(record) or record[\"slab\"] != slab_id:", "test_ledger.py test_verify.py test_packs.py test_independent.py faults/test_tampering.py"),
    # signature
    Mutant("signature.py", "if public and whose != public else []", "if False else []", "test_signature.py"),
    Mutant("signature.py", "{\"schema\": SCHEMA, \"head\": head, \"records\": records, \"certificate\": _certificate(out)}", "{\"schema\": SCHEMA, \"head\": head, \"records\": records, \"certificate\": \"\"}", "test_signature.py"),
    Mutant("signature.py", "lines = sorted(f\"{i} {digest(record)}\\n\"", "lines = sorted(f\"{i}\\n\"", "test_signature.py"),
    Mutant("signature.py", ".verify(made, canonical(said).encode())", "", "test_signature.py"),
    Mutant("signature.py", "wrong = sorted(k for k in {**said, **now} if said.get(k) != now.get(k))", "wrong = sorted(k for k in {**said, **now} if k != \"head\" and said.get(k) != now.get(k))", "test_signature.py"),
    Mutant("signature.py", "    if _said(out).get(\"certificate\", now := _certificate(out)) != now:", "    if False:", "test_signature.py test_certificate.py"),
    Mutant("signature.py", "return max((n for n, there in found if there), default=\"\")", "return min((n for n, there in found if there), default=\"\")", "test_signature.py"),
    # the order of runs
    Mutant("runlog.py", "return name if name > last else _after(last)", "return name", "test_state.py test_prune.py"),
    # sweeping and confining
    Mutant("rest.py", "    if mine == kept:\n        return\n", "    return\n", "test_sweep.py test_merge.py"),
    Mutant("rest.py", "if cell not in target.touched and source.files.stat(source.key(cell)) is None:", "if source.files.stat(source.key(cell)) is None:", "test_sweep.py test_merge.py"),
    Mutant("rest.py", "if cell not in target.touched and source.files.stat(source.key(cell)) is None:", "if cell not in target.touched:", "test_sweep.py test_merge.py"),
    Mutant("rest.py", "        if stored.key.endswith(\".partial\"):\n            files.delete(stored.key)\n", "", "test_sweep.py test_merge.py"),
    Mutant("ledger.py", "for part in (\"zmend\", \"labels\"))", "for part in (\"zmend\",))", "test_run.py faults/test_faults.py"),
    Mutant("foundation.py", "        shutil.rmtree(aside, ignore_errors=True)\n    for", "        pass\n    for", "test_merge.py test_run.py faults/test_faults.py"),
    Mutant("foundation.py", "        aside.unlink(missing_ok=True)\n", "        pass\n", "test_run.py faults/test_faults.py"),
    Mutant("confine.py", "DEPTH = 5", "DEPTH = 4", "test_security.py"),
    Mutant("confine.py", "for entry in below if depth > 1 else ():", "for entry in below if depth > 2 else ():", "test_security.py"),
    Mutant("confine.py", "except FileNotFoundError:", "except NotADirectoryError:", "test_security.py faults/test_faults.py"),
]
