"""Precomputed and N5 in a bucket."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.box import Box
from pipeline.files import Files
from pipeline.volume import Volume
from tests.foreigners import write_n5, write_precomputed
from tests.s3.jobs import upload
from tests.stores import noise

SHAPE = (8, 100, 90)


@pytest.mark.parametrize("kind", ["precomputed", "n5"])
def test_a_volume_in_a_bucket(kind: str, bucket: str, tmp_path: Path) -> None:
    data = noise(SHAPE)
    local = write_n5(tmp_path / "raw", data, (45.0, 4.0, 4.0)) if kind == "n5" else write_precomputed(tmp_path / "raw", [data], (45.0, 4.0, 4.0))
    upload(Path(local), f"s3://{bucket}/deep/raw")
    volume = Volume.open(f"{kind}://s3://{bucket}/deep/raw")
    np.testing.assert_array_equal(volume.read(Box.of(SHAPE)), data)
    assert len(list(volume.present())) == 2 * 2 * 2 and volume.absent(Box.of(SHAPE)) == ()
    before, box = volume.inputs(Box.of(SHAPE)), Box((0, 0, 0), (4, 64, 64))
    Files(volume.files.uri).delete(volume.keys(box)[0])
    assert volume.absent(Box.of(SHAPE)) == (box,) and volume.inputs(Box.of(SHAPE)) != before
