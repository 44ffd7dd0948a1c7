"""The restorer alone, beside others: operations a megapixel by torch's own counter, seconds, and the share of the peak.

Every method restores one missing section of EDGE x EDGE between its neighbours. A diffusion model's evaluations all cost
the same, so of those with many steps one is timed, and multiplied. Networks that are not ours have random weights: what
they restore means nothing, what it takes does. Interleaved rounds in one process, medians; before and after each round
the peak is measured: a large matrix product and a large convolution in the same precision and threads, whichever is
quicker. Where CUDA is at hand the same is measured there, and our restorer compiled, and with CUDA graphs.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import emdiffuse

EDGE, ROUNDS = 256, 3  # EDGE: EMDiffuse's own
NM = (47.5, 4.6, 4.6)
BATCHES = (1, 4)  # of tiles; on CUDA more
EVALUATION = Path(__file__).parent / "results/evaluation.json"
TASK, F1 = "vnc1", "membrane_f1"


@dataclass(frozen=True)
class Way:
    """One method: what is timed, how often that is done for one restoration, and the method's name in the evaluation."""

    call: Callable[[], object]  # waits for its device
    times: int = 1
    evaluated: str = ""
    extra_flop_px: float = 0.0  # that torch's counter does not see


def measure() -> dict[str, Any]:
    """Every method on every device and in every precision that is here."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    places = [("cpu", "float32"), ("cpu", "bfloat16"), *([("cuda", "bfloat16")] if torch.cuda.is_available() else [])]
    found = [_on(device, precision) for device, precision in places]
    ours, emdiffuse = (next(r for r in found[0]["rows"] if r["method"] == m) for m in ("ours, 4 evaluations", _name()))
    return {
        "edge": EDGE,
        "threads": torch.get_num_threads(),
        "rounds": ROUNDS,
        "places": found,
        "tile": _tile(),
        "batches": [{"device": d, **row} for d in dict.fromkeys(d for d, _ in places) for row in _sweep(d)],
        "emdiffuse_over_ours": round(emdiffuse["tflop_per_mpx"] / ours["tflop_per_mpx"], 1),
        "membrane_f1": f"of {TASK} in results/evaluation.json; blank where a method was not trained here",
    }


def _on(device: str, precision: str) -> dict[str, Any]:
    import torch

    ways = dict(_ways(device, precision))
    # Counting is the first call, which is not timed. A million operations a pixel are a million million a megapixel.
    flops = {name: way.times * (_flops(way.call) / EDGE**2 + way.extra_flop_px / 1e6) for name, way in ways.items()}
    took: dict[str, list[float]] = {name: [] for name in ways}
    peaks = [_peak(device, precision)]
    for number in range(ROUNDS):
        for name, way in ways.items():
            if number and way.times > 1:
                continue  # they take longest, and are not close to anything
            began = time.perf_counter()
            way.call()
            took[name].append(way.times * (time.perf_counter() - began))
        peaks.append(_peak(device, precision))
    peak, scores = statistics.median(peaks), _scores()
    rows = []
    for name, way in ways.items():
        s, mpx = statistics.median(took[name]), EDGE**2 / 1e6
        rows.append({
            "method": name,
            "tflop_per_mpx": round(flops[name], 3),
            "s_per_mpx": round(s / mpx, 3),
            "spread": round((max(took[name]) - min(took[name])) / 2 / s, 2),
            "share_of_peak": round(flops[name] * mpx / s / peak, 3),
            "membrane_f1": scores.get(way.evaluated),
        })  # fmt: skip
    what = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"device": what, "precision": precision, "peak_tflops": round(peak, 3), "rows": rows}


def _ways(device: str, precision: str) -> Any:
    import torch

    from model.baselines import flow
    from model.diffusion import evaluate
    from model.network import PRESETS, AnisoUNet3D
    from model.peernets import Config, SepConv
    from model.sampler import SAMPLERS
    from model.scenes import Case

    def ready(network: Any, *inputs: Any) -> Callable[[], object]:
        """One evaluation in the precision."""
        network = network.eval().to(device, memory_format=torch.channels_last)

        def call() -> None:
            with torch.inference_mode(), _precision(device, precision):
                network(*inputs)
            _wait(device)

        return call

    for steps in (1, 4):
        yield f"ours, {steps} evaluations", Way(_ours(device, precision, steps), 1, {4: "ours", 1: "ours (posterior mean)"}.get(steps, ""))
    if device == "cuda":
        for mode, name in (("default", "compiled"), ("reduce-overhead", "CUDA graphs")):
            yield f"ours, 4 evaluations, {name}", Way(_ours(device, precision, 4, mode))
    paper, condition = AnisoUNet3D(PRESETS["paper"]), _condition(device)
    noisy, level = torch.rand(1, 1, 1, EDGE, EDGE, device=device), torch.tensor([0.3], device=device)
    one = ready(_Evaluated(paper, evaluate), condition, noisy, level)
    yield f"the paper's, {SAMPLERS['paper'].steps} evaluations", Way(one, SAMPLERS["paper"].steps)
    for channels in (emdiffuse.PUBLISHED, *([emdiffuse.WIDE] if precision == "bfloat16" else [])):
        one = ready(emdiffuse.UNet(channels), *emdiffuse.inputs(channels, EDGE, device))
        yield _name(channels), Way(one, emdiffuse.STEPS)
    taps = Config().taps
    yield "SepConv-style", Way(ready(SepConv(Config()), condition), 1, "sepconv", 4.0 * (taps**2 + taps))
    if device == "cpu" and precision == "float32":
        window, known = _window()
        case = Case(window[0], known[0], (2, 3), NM, (0, 0, 0), window[0, 2:3])
        yield "DIS optical flow", Way(lambda: flow(case), 1, "flow")


def _name(channels: int = emdiffuse.PUBLISHED) -> str:
    """Of a network of EMDiffuse's kind."""
    wide = "" if channels == emdiffuse.PUBLISHED else f", {channels // emdiffuse.PUBLISHED} times as wide"
    return f"EMDiffuse's{wide}, {emdiffuse.STEPS} steps"


def _ours(device: str, precision: str, steps: int, compiled: str = "") -> Callable[[], object]:
    """A restoration by the shipped weights: as workers call it, which is in the precision that the processor has; in
    the other one by the sampler itself."""
    import torch

    from model.checkpoint import load_network, locate, read_card
    from model.diffusion import sample
    from model.sampler import Sampler

    card = read_card(locate("default"))
    network = load_network(locate("default"), card).to(device)
    if compiled:
        network = torch.compile(network, dynamic=False, mode=compiled)
    sampler, condition = Sampler(**{**card.sampler, "steps": steps}), _condition(device)
    noise = torch.randn(1, 1, 1, EDGE, EDGE, device=device)

    def call() -> None:
        with torch.inference_mode(), _precision(device, precision):
            sample(network, condition, lambda draw: noise, sampler)
        _wait(device)

    return call


class _Evaluated:
    """A network behind `evaluate`, as something that can be called and moved."""

    def __init__(self, network: Any, evaluate: Any) -> None:
        self.network, self._evaluate = network, evaluate

    def eval(self) -> _Evaluated:
        self.network.eval()
        return self

    def to(self, device: str, **_: Any) -> _Evaluated:
        self.network.to(device)
        return self

    def __call__(self, *given: Any) -> Any:
        return self._evaluate(self.network, *given)


def _window() -> tuple[Any, Any]:
    window = np.random.default_rng(0).random((1, 5, EDGE, EDGE), np.float32)
    known = np.ones(window.shape, bool)
    known[:, 2] = False
    return window, known


def _condition(device: str) -> Any:
    import torch

    from model.diffusion import Condition

    window, known = (torch.from_numpy(a.astype(np.float32))[:, None].to(device) for a in _window())
    return Condition((2 * window - 1) * known, known, (2, 3), torch.zeros(1, 2, device=device))


def _precision(device: str, precision: str) -> Any:
    import torch

    return torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _flops(call: Callable[[], object]) -> float:
    """Operations of a call by torch's counter, in millions; a multiplication and an addition are two."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops()) / 1e6


def tflop_per_mpx(weights: str = "default", sections: int = 5) -> float:
    """Operations of one evaluation for one missing section among `sections`, a megapixel."""
    import torch

    from model.checkpoint import locate, read_card
    from model.diffusion import Condition, evaluate
    from model.network import AnisoUNet3D, NetworkConfig

    network = AnisoUNet3D(NetworkConfig.from_dict(read_card(locate(weights)).network)).eval()
    n, middle = 256, sections // 2
    known = torch.ones(1, 1, sections, n, n)
    known[:, :, middle] = 0
    condition = Condition(torch.rand_like(known) * known, known, (middle, middle + 1), torch.zeros(1, 2))
    with torch.inference_mode():
        return _flops(lambda: evaluate(network, condition, torch.rand(1, 1, 1, n, n), torch.tensor([0.3]))) / n**2


def _tile() -> dict[str, Any]:
    """What tiles and their halo add: the pipeline computes whole windows, and keeps their middle."""
    from model.checkpoint import locate, read_card

    card = read_card(locate("default"))
    return {"tile": card.tile, "halo": card.halo, "times": round(((card.tile + 2 * card.halo) / card.tile) ** 2, 2)}


def _sweep(device: str) -> list[dict[str, Any]]:
    """Seconds a tile, halo included, by tiles in a call, as workers call it."""
    from model.restorer import DiffusionRestorer

    rows, tile = [], _tile()
    edge = tile["tile"] + 2 * tile["halo"]
    for batch in BATCHES if device == "cpu" else (1, 2, 4, 8, 16, 32):
        restorer = DiffusionRestorer(voxel_nm=NM, batch=batch, device=device)
        window = np.random.default_rng(0).random((batch, 5, edge, edge), np.float32)
        known = np.ones(window.shape, bool)
        known[:, 2] = False
        origin = np.zeros((batch, 3), np.int64)
        took = []
        for _ in range(2):  # the first loads
            began = time.perf_counter()
            restorer.restore(window, known, (2, 3), origin)
            took.append(time.perf_counter() - began)
        rows.append({"batch": batch, "s_per_tile": round(took[-1] / batch, 4), "mpx_s": round(tile["tile"] ** 2 / 1e6 * batch / took[-1], 4)})
    return rows


def _peak(device: str, precision: str) -> float:
    """TFLOP/s of a large matrix product, or of a large convolution if that is quicker; the best of three each."""
    import torch
    from torch.nn import functional as F

    kind = getattr(torch, precision)
    n = 2048 if device == "cpu" else 8192
    a = torch.rand(n, n, device=device).to(kind)
    x = torch.rand(1, 256, n // 16, n // 16, device=device).to(kind).to(memory_format=torch.channels_last)
    w = torch.rand(256, 256, 3, 3, device=device).to(kind).to(memory_format=torch.channels_last)
    works = {"product": (lambda: a @ a, 2 * n**3), "convolution": (lambda: F.conv2d(x, w, padding=1), 2 * 9 * 256**2 * (n // 16) ** 2)}
    best = 0.0
    for work, flops in works.values():
        for _ in range(3):
            began = time.perf_counter()
            with torch.inference_mode():
                work()
            _wait(device)
            best = max(best, flops / (time.perf_counter() - began) / 1e12)
    return best


def _scores() -> dict[str, float]:
    if not EVALUATION.exists():
        return {}
    means = json.loads(EVALUATION.read_text())["tasks"][TASK]["mean"]
    return {name: round(row[F1], 3) for name, row in means.items() if row.get(F1) is not None}


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    columns = ("tflop_per_mpx", "s_per_mpx", "spread", "share_of_peak", "membrane_f1")
    tile = found["tile"]
    lines = [
        f"One missing section of {found['edge']} x {found['edge']} px, {found['threads']} threads, medians of {found['rounds']} rounds; "
        "the peak is that of a large matrix product or convolution, measured between the rounds; spread is half the range, relative. "
        "Of methods with 50 evaluations and more one is timed, once. Networks other than ours have random weights.",
        "",
        f"**EMDiffuse's network at 200 steps takes {found['emdiffuse_over_ours']} times the operations of ours** (its configuration says {emdiffuse.CONFIGURED_STEPS:,} when testing: five times that). Both without tiles: "
        f"ours in tiles of {tile['tile']} px with a halo of {tile['halo']} px computes {tile['times']} times as many pixels.",
    ]
    for place in found["places"]:
        lines += ["", f"{place['device']}, {place['precision']}, peak {place['peak_tflops']} TFLOP/s:", ""]
        lines += ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        lines += [f"| {r['method']} | " + " | ".join("" if r[c] is None else str(r[c]) for c in columns) + " |" for r in place["rows"]]
    lines += ["", "Tiles in a call:", "", "| device | batch | s a tile | Mpx/s |", "|---|---|---|---|"]
    lines += [f"| {r['device']} | {r['batch']} | {r['s_per_tile']} | {r['mpx_s']} |" for r in found["batches"]]
    return "\n".join(lines) + "\n"
