"""The evaluation: honest baselines, nobody sees the section that is left out, every method gets a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from model import evaluate, metrics
from model.diffusion import Sampler
from tests.model.tiny import alive


def scene() -> evaluate.Scene:
    """Tissue that drifts 4 px a section, with dark lines as membranes."""
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.standard_normal((64, 128)), 5)
    stack = [np.roll(field, 4 * z, 1)[:, 32:96] for z in range(5)]
    lines = np.stack([np.abs(s) < 0.01 for s in stack])
    return evaluate.Scene((0.7 - 0.4 * lines).astype(np.float32), lines, (1, 2, 3), (47.5, 4.6, 4.6))


@pytest.mark.parametrize("name", sorted(evaluate.baselines()))
def test_a_baseline_never_sees_the_section_left_out(name: str) -> None:
    s = scene()
    method = evaluate.baselines()[name]
    poisoned = s.stack.copy()
    poisoned[2] = 9.0
    assert np.array_equal(method(s.stack, 2), method(poisoned, 2))


def test_our_method_never_sees_the_section_left_out() -> None:
    s = scene()
    method = evaluate.ours(alive(), Sampler(steps=2), s.voxel_nm)
    poisoned = s.stack.copy()
    poisoned[2] = 9.0
    assert np.array_equal(method(s.stack, 2), method(poisoned, 2))


def test_flow_follows_the_drift_that_the_average_blurs() -> None:
    s = scene()
    b = evaluate.baselines()
    assert metrics.ncc(s.stack[2], b["flow"](s.stack, 2)) > metrics.ncc(s.stack[2], b["average"](s.stack, 2)) + 0.1


def test_every_method_gets_a_row_and_the_real_section_is_the_ceiling(tmp_path: Path) -> None:
    s = scene()
    classifier = metrics.MembraneClassifier.fit(list(s.stack), list(s.membranes))
    rows, images = evaluate.compare(s, evaluate.baselines(), classifier)
    table = evaluate.summary(rows)
    assert list(table) == ["real section", *evaluate.baselines()]
    assert all(len(r) == 3 for r in rows.values())
    assert table["constant"]["gain_db"] == 0 and table["constant"]["membrane_f1"] < 0.4
    assert max(table, key=lambda name: table[name]["membrane_f1"]) == "real section"
    text = evaluate.markdown(table, "a title")
    assert text.startswith("## a title") and "| flow |" in text and "inf" not in text
    evaluate.picture(tmp_path / "p.png", images, {"previous": s.stack[0]}, crop=48)
    assert (tmp_path / "p.png").stat().st_size > 1000
