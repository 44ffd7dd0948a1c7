"""The restorer alone: seconds for a section of 512 x 512, and operations a megapixel, beside flow and the CPU's limit.

Interleaved rounds in one process, medians. The limit is a large matrix product in the same precision and threads.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

EDGE = 512
ROUNDS = 3
STEPS = (1, 4, 8)


def measure() -> dict[str, Any]:
    """Medians of seconds and share of the machine's peak for each way to restore one missing section."""
    import torch

    from model.baselines import flow
    from model.restorer import DiffusionRestorer
    from model.scenes import Case

    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    window = np.random.default_rng(0).random((1, 5, EDGE, EDGE), np.float32)
    known = np.ones(window.shape, bool)
    known[:, 2] = False
    origin = np.zeros((1, 3), np.int64)
    made = {f"ours, {n} evaluations": DiffusionRestorer(voxel_nm=(47.5, 4.6, 4.6), steps=n) for n in STEPS}
    ways: dict[str, Callable[[], object]] = {
        name: lambda r=restorer: r.restore(window, known, (2, 3), origin)  # type: ignore[misc]
        for name, restorer in made.items()
    }
    case = Case(window[0], known[0], (2, 3), (47.5, 4.6, 4.6), (0, 0, 0), window[0, 2:3])
    ways["DIS flow"] = lambda: flow(case)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # imports, loads, allocates
    for _ in range(ROUNDS):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    peak = _peak(threads)
    evaluation = tflop_per_mpx()
    rows = {}
    for name, found in seconds.items():
        steps = int(name.split()[1]) if name.startswith("ours") else 0
        median, work = statistics.median(found), evaluation * steps
        rows[name] = {
            "seconds": round(median, 3),
            "s_per_mpx": round(median / (EDGE**2 / 1e6), 2),
            "tflop_per_mpx": round(work, 3),
            "share_of_peak": round(work * EDGE**2 / 1e6 / median / peak, 3),
        }
    return {"edge": EDGE, "threads": threads, "rounds": ROUNDS, "peak_tflops": round(peak, 3), "rows": rows}


def tflop_per_mpx(weights: str = "default", sections: int = 5) -> float:
    """Operations of one evaluation for one missing section among `sections`, a megapixel, by torch's own counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from model.checkpoint import locate, read_card
    from model.diffusion import Condition, evaluate
    from model.network import AnisoUNet3D, NetworkConfig

    network = AnisoUNet3D(NetworkConfig.from_dict(read_card(locate(weights)).network)).eval()
    n, middle = 256, sections // 2
    known = torch.ones(1, 1, sections, n, n)
    known[:, :, middle] = 0
    condition = Condition(torch.rand_like(known) * known, known, (middle, middle + 1), torch.zeros(1, 2))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        evaluate(network, condition, torch.rand(1, 1, 1, n, n), torch.tensor([0.3]))
    return float(counter.get_total_flops()) / 1e12 / (n * n / 1e6)


def _peak(threads: int) -> float:
    """TFLOP/s of a bfloat16 matrix product, the best of a few."""
    import torch

    torch.set_num_threads(threads)
    a = torch.rand(2048, 2048).to(torch.bfloat16)
    best = 0.0
    for _ in range(6):
        began = time.perf_counter()
        a @ a
        best = max(best, 2 * 2048**3 / (time.perf_counter() - began) / 1e12)
    return best


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    columns = ("seconds", "s_per_mpx", "tflop_per_mpx", "share_of_peak")
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(str(row[c]) for c in columns) + " |" for name, row in found["rows"].items()]
    what = (
        f"One missing section of {found['edge']} x {found['edge']} between two clean ones a side, {found['threads']} "
        f"threads, medians of {found['rounds']}; the peak is a bfloat16 matrix product's, {found['peak_tflops']} TFLOP/s.\n\n"
    )
    return what + "\n".join(lines) + "\n"
