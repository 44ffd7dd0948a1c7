"""The demo: damages a phantom, mends it, proves it, draws it; and touches no folder that is not its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from skimage.io import imread

from pipeline.documents import schema
from pipeline.verify import verify
from tests.jobs import command


def test_the_demo_mends_verifies_and_draws(tmp_path: Path) -> None:
    process = command("demo", "--restorer", "nearest", "--out", "shown", "--json", cwd=tmp_path)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    document = json.loads(out)
    assert document["verified"] is True
    Draft202012Validator(schema("demo")).validate(document)
    assert [m["method"] for m in document["methods"]] == ["constant grey", "linear", "nearest"]
    scores = {m["method"]: m["PSNR dB"] for m in document["methods"]}
    assert scores["linear"] > scores["constant grey"], "interpolation beats a grey section on a phantom that drifts"
    picture = imread(tmp_path / "shown/demo.png")
    assert picture.shape[0] > 400
    assert np.ptp(picture[..., :3]) > 200
    assert verify(str(tmp_path / "shown/nearest.zarr"), replay=1)["ok"]


@pytest.mark.parametrize(
    ("args", "words"),
    [(["--out", "mine"], "the demo's folder holds other things"), (["--out", "new", "--restorer", "foo"], "there is no restorer 'foo'")],
)
def test_refusals_leave_everything_as_it_was(tmp_path: Path, args: list[str], words: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    process = command("demo", *args, cwd=tmp_path)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 3
    assert words in err
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"
    assert not (tmp_path / "new").exists()
