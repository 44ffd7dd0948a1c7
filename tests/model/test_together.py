"""Training in several processes at once, as torchrun starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from model.state import read
from model.trainer import Trainer
from tests.model.test_training import settings, synthetic

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, os, torch
import torch.distributed as dist
from pathlib import Path
from model.train import _together
from model.trainer import Trainer
from tests.model.test_training import settings, synthetic
torch.set_num_threads(1)
with _together("cpu"):
    trainer = Trainer(settings(4), synthetic())
    for _ in range(4):
        trainer.step()
    mine = torch.cat([v.detach().reshape(-1) for v in trainer.network.parameters()])
    both = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    assert trainer.world == 2 and trainer.rank == int(os.environ["LOCAL_RANK"])
    assert torch.equal(*both), "the processes drifted apart"
    trainer.save(Path(sys.argv[1]))
assert not dist.is_initialized()
"""


def torchrun(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})  # fmt: skip


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """They share a batch and its gradient: the same weights in both, and close to those of one process that saw it all."""
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = torchrun(tmp_path, "script.py", str(tmp_path / "state.safetensors"))
    assert ended.returncode == 0, ended.stderr
    tensors, _ = read(tmp_path / "state.safetensors")
    start, alone = Trainer(settings(4), synthetic()), Trainer(settings(4), synthetic())
    for _ in range(4):
        alone.step()

    def moved(values: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([(values[k] - v.detach()).reshape(-1) for k, v in start.network.named_parameters()])

    together = moved({k: tensors[f"network.{k}"] for k, _ in start.network.named_parameters()})
    one = moved(dict(alone.network.named_parameters())).detach()
    assert float(torch.nn.functional.cosine_similarity(together, one, 0)) > 0.9


@pytest.mark.slow
def test_torchrun_trains_to_the_end_and_exports_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", raw=synthetic()[0].raw)
    (tmp_path / "manifest.json").write_text(json.dumps({"mine": {"file": "mine.npz", "voxel_zyx_nm": [40, 8, 8]}}))
    ended = torchrun(tmp_path, "-m", "model.train", "--data", ".", "--state", "s", "--steps", "2", "--batch", "2", "--crop", "64",
                     "--threads", "1", "--export", "w.safetensors")  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "w.json").read_text())["training"]["steps"] == 2
    assert ended.stderr.count("exported w.safetensors") == 1
