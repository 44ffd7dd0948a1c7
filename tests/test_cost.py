"""The cost of a plan: counts agree with what slabs really do; hours and ranges follow from counts and rates."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from pipeline.account import foreseen
from pipeline.cost import Load, Rates, cost
from pipeline.job import propose
from pipeline.ledger import Ledger
from pipeline.store import open_labels, open_overlay
from tests.jobs import Job, build, save
from tests.toys import Copier

RATES = Rates({1: 2.0, 3: 4.0}, schedule_s=0.001, cores=2.0, call_cores=2.0)


class Counting(Copier):
    """Notes the sections of each gap that it is given, a batch at a time."""

    calls: ClassVar = Counter[int]()

    def restore(self, window, known, targets, origin):
        Counting.calls[targets[1] - targets[0]] += 1
        return super().restore(window, known, targets, origin)


FLAGS = {
    "whole sections": "z_start,z_stop,class\n3,4,missing\n6,8,missing\n11,12,missing\n12,13,missing\n",
    "too many in a row": "z_start,z_stop,class\n3,7,missing\n10,11,missing\n",
    "the first section": "z_start,z_stop,class\n0,1,missing\n10,11,missing\n",
    "regions": "z_start,z_stop,class,y_start,y_stop,x_start,x_stop\n3,4,fold,10,40,10,200\n4,5,fold,60,70,199,280\n9,11,fold,0,300,100,140\n",
    "regions beside whole ones": "z_start,z_stop,class,y_start,y_stop,x_start,x_stop\n5,6,fold,10,40,10,200\n6,7,missing,,,,\n9,10,fold,0,9,0,9\n",
}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return build(tmp_path)


@pytest.mark.parametrize("kind", FLAGS)
@pytest.mark.parametrize("slab_px", [128, 256, "whole"])
def test_what_is_counted_is_what_a_run_does(kind: str, slab_px: int | str, job: Job) -> None:
    job.flags(FLAGS[kind])
    asked = {"recipe": {"restorer": "tests.test_cost:Counting"}, "site": {"slab_px": slab_px, "slab_sections": 2},
             "certificate": 0, "output": {"mode": "overlay"}}  # fmt: skip
    load = propose(job.load(**asked)).load
    Counting.calls.clear()
    summary = job.run(**asked)
    assert Counting.calls == load.calls and load.calls
    assert summary["bytes_read"] == load.read_bytes
    written = list(open_overlay(str(job.folder / "out.zarr")).present())
    refused = 0 if kind in ("whole sections", "regions", "regions beside whole ones") else None
    assert refused is None or len(written) == load.write_chunks


@pytest.mark.parametrize("depth", [1, 8])
def test_bytes_of_a_store_are_those_that_were_said(depth: int, tmp_path: Path) -> None:
    """Noise does not compress, so that the stored bytes are the decoded ones."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 256, 256), np.uint8)
    save(tmp_path / "raw.zarr", noise, (depth, 128, 128))
    job = Job(tmp_path, noise, noise, noise > 0)
    job.flags("z_start,z_stop,class\n3,4,missing\n9,10,missing\n")
    asked = {"recipe": {"restorer": "tests.toys:Copier"}, "certificate": 0, "output": {"mode": "volume", "clone": "copy"}}
    load, out = propose(job.load(**asked)).load, str(job.folder / "out.zarr")
    said = cost(load, Rates({}), 1)
    summary = job.run(**asked)
    overlay = sum(s.size for _, s in open_overlay(out).objects())
    labels = sum(s.size for _, s in open_labels(out).objects())
    assert said.bytes_written == pytest.approx(overlay, rel=0.01)
    assert labels < 0.05 * overlay, "labels compress to next to nothing"
    assert load.merge_chunks == {1: 2 * 4, 8: 2 * 4}[depth]
    assert load.merge_bytes == load.merge_chunks * depth * 128**2
    assert load.link_chunks == 16 // depth * 4 - load.merge_chunks
    # Of the run: slabs read and write, then the merge does; untouched chunks are copied here, each read and written.
    copied = load.link_chunks * depth * 128**2
    assert summary["bytes_written"] == pytest.approx(said.bytes_written + said.merge_bytes_written + copied, rel=0.05)
    records = [r for _, r in Ledger(out).records() if r]
    assert sum(r["bytes_read"] for r in records) == said.bytes_read
    # The merge also reads the overlay, and back what it writes.
    moved = said.bytes_read + said.bytes_written + said.merge_bytes_read + said.merge_bytes_written + copied
    assert summary["bytes_read"] == pytest.approx(moved, rel=0.05)


def test_a_restorer_that_outweighs_all_else_decides() -> None:
    load = Load(slabs=10, calls={1: 100})
    found = cost(load, RATES, 1)
    assert found.wall_s == pytest.approx(200) and found.worker_hours == pytest.approx(200 / 3600)
    assert found.restorer_share == pytest.approx(1)
    assert found.low_s == pytest.approx(180) and found.high_s == pytest.approx(220)


def test_more_workers_share_the_slabs_and_the_last_round_may_be_short() -> None:
    load = Load(slabs=10, calls={1: 100})
    assert cost(load, RATES, 5).wall_s == pytest.approx(40)
    assert cost(load, RATES, 4).wall_s == pytest.approx(60), "three rounds of a slab each, for two and a half"
    assert cost(load, RATES, 999).wall_s == pytest.approx(20), "no more hands than slabs"
    assert cost(load, RATES, 4).worker_hours == pytest.approx(60 * 4 / 3600), "workers that wait are paid for, too"


def test_reading_hides_behind_the_restorer_but_for_the_first_slab() -> None:
    load = Load(slabs=10, calls={1: 100}, read_bytes=10**9)
    rates = replace(RATES, read_s_byte=40e-9, call_cores=1.0)  # 40 s in all, beside 200; of two cores one is free
    assert cost(load, rates, 1).wall_s == pytest.approx(204)
    busy = replace(rates, call_cores=2.0)  # the restorer wants both cores
    assert cost(load, busy, 1).wall_s == pytest.approx((400 + 40) / 2 + 4)
    assert cost(load, rates, 0).wall_s == pytest.approx(240), "without workers nothing overlaps"
    assert cost(load, rates, 1).high_s >= 240


def test_many_quick_slabs_wait_for_the_driver() -> None:
    found = cost(Load(slabs=10**6, calls={1: 10**6}), replace(RATES, call_s={1: 0.01}), 1000)
    assert found.wall_s == pytest.approx(1000) and found.driver_s == pytest.approx(1000)


def test_start_certificate_and_merge_are_added() -> None:
    rates = replace(RATES, start_s=3.0, open_s=5.0, merge_s_byte=4e-9, link_s=0.001)
    assert cost(Load(slabs=1, calls={1: 1}, probe_calls=4, merge_bytes=10**9, link_chunks=1000), rates, 2).wall_s == pytest.approx(
        3 + 5 + 2 + 2 * 2 + 1 + 1
    )
    assert cost(Load(), RATES, 2).wall_s == 0


def test_gaps_that_were_not_measured_are_reckoned_from_the_nearest() -> None:
    assert RATES.call(1) == 2 and RATES.call(3) == 4
    assert RATES.call(2) == 2 * 4 / 3 and RATES.call(4) == 4 * 6 / 5
    assert Rates({}).call(1) == 0


def test_what_is_left_of_a_job_is_a_share_of_it() -> None:
    half = Load(slabs=10, calls={1: 100}, read_bytes=1000, merge_bytes=7).share(0.5)
    assert (half.slabs, half.calls, half.read_bytes, half.merge_bytes) == (5, {1: 50}, 500, 7)
    assert cost(half, RATES, 1).wall_s == pytest.approx(100)


def test_rates_come_back_from_json_and_nonsense_does_not() -> None:
    assert Rates.of({"call_s": {"1": 2}, "start_s": 3}) == Rates({1: 2.0}, start_s=3.0)
    for bad in ({"call_s": {"1": 2}, "start_s": -1}, {"call_s": {"1": 2}, "start_s": float("nan")}):
        with pytest.raises(ValueError, match="no number of seconds"):
            Rates.of(bad)


def test_of_a_long_log_only_both_ends_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.account.EDGE", 4096)
    said = {"wall_s": 60.0, "low_s": 50.0, "high_s": 70.0, "worker_hours": 0.1}
    slab = json.dumps({"kind": "slab", "seconds": [1, 2], "note": '"kind": "end"'}) + "\n"
    for name, todo, ended in (("a", 9, True), ("b", 9, False), ("c", 0, True)):
        (folder := tmp_path / "zmend/runs" / name).mkdir(parents=True)
        begin = json.dumps({"kind": "begin", "todo": todo, "forecast": said})
        middle = "not JSON, and never read {end}\n".replace("end", '"kind": "end"') * 500
        end = json.dumps({"kind": "end", "seconds": 64.5}) + "\n" if ended else ""
        (folder / "log.jsonl").write_text(f"{begin}\n{slab * 99}{middle}{slab * 99}{end}")
    assert foreseen(str(tmp_path)) == {"run": "b", **said, "took_s": None}, "c had nothing to do, b has not ended"
    (tmp_path / "zmend/runs/b/log.jsonl").unlink()
    assert foreseen(str(tmp_path)) == {"run": "a", **said, "took_s": 64.5}


def test_what_is_written_holds_tissue_though_what_was_read_did_not() -> None:
    load = Load(slabs=1, read_bytes=100, write_bytes=100, merge_chunks=1, merge_bytes=100)
    told = cost(load, Rates({}, stored=0.5, made=0.9), 1)
    assert (told.bytes_read, told.bytes_written, told.merge_bytes_read, told.merge_bytes_written) == (50, 90, 50, 90)
    assert cost(load, Rates({}, stored=0.5), 1).bytes_written == 50, "as calibrations of earlier versions have it"
