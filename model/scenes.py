"""What is restored in an evaluation: cases cut from real stacks, with the truth kept aside.

vnc1, vnc2, vnc3   vnc_stack1 z 14-18 (never trained on): every run of 1, 2 or 3 of them missing in turn
fib25              every 4th slice of a 10-nm FIB-SEM volume is a stack of 40-nm sections; z chosen by a fixed seed
pinky              every section of a mouse cortex stack that nothing was trained on; strong brightness steps
fold ... contrast  vnc_stack1 z 14-18, each damaged in part by a simulator of `damage`, other sections whole
validation         rows 832-1023 of four training sections: for choosing settings, so that no test section is looked at

Images are float32 in [0, 1]; shapes are (z, y, x); z ranges are half-open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model import stacks
from model.damage import SIMULATORS
from model.segmentation import Labels, profiles

Image = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Voxel = tuple[float, float, float]

MISSING = ("vnc1", "vnc2", "vnc3", "fib25", "pinky")
PARTIAL = tuple(SIMULATORS)
TASKS = (*MISSING, *PARTIAL)
HIDDEN = np.float32(0.5)  # stands in every voxel that a method must not see
_TEST = (14, 19)  # sections of vnc_stack1 that are restored; 19 is only ever a neighbour
_SIDE = 2  # clean sections a side, where they exist
_KEPT_ROWS = (832, 1024)  # as data.VALIDATION_ROWS
_VALIDATION = (2, 5, 7, 10)  # z; section 12 has real contamination
_FIB = (5, 4, 512, 25)  # sections to restore, slices of 10 nm a section, edge in pixels, seed
_STACKS = {"fib25": "fib25_val_z000_239", "pinky": "pinky_sample2"}  # of every other task: vnc_stack1
_LEAST = {"vnc_stack1": _TEST[1] + 1, "fib25_val_z000_239": 4 * _FIB[1] + _FIB[0], "pinky_sample2": 3}  # slices
_CLASSIFIED = slice(0, 14, 2)  # sections whose rows above _KEPT_ROWS the membrane classifier is fitted to


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One restoration problem and its answer. A method may look at sections, known, targets, voxel_nm, origin only."""

    sections: Floats  # (D, H, W) in [0, 1]; 0.5 wherever `known` is False
    known: Bools  # (D, H, W)
    targets: tuple[int, int]  # half-open range of the K sections to restore; one or two clean ones either side
    voxel_nm: Voxel  # (z, y, x)
    origin: tuple[int, int, int]  # global (z, y, x) of sections[0, 0, 0], in sections and pixels
    truth: Floats  # (K, H, W)
    membranes: Bools | None = None  # (K, H, W) human annotation of the targets
    labels: Labels | None = None  # (K, H, W) profiles of the targets (see segmentation.profiles), 0 = membrane
    name: str = ""
    beside: Labels | None = None  # (2, H, W) profiles of the clean sections next to the gap

    @property
    def gap(self) -> int:
        return self.targets[1] - self.targets[0]

    @property
    def unknown(self) -> Bools:
        """(K, H, W): the voxels to restore; the only ones that count."""
        return np.asarray(~self.known[self.targets[0] : self.targets[1]])

    @property
    def pair(self) -> tuple[Floats, Floats]:
        """The clean sections next to the gap, (H, W) each."""
        return self.sections[self.targets[0] - 1], self.sections[self.targets[1]]

    @property
    def places(self) -> list[float]:
        """Of each target between the pair: 0 = the section before, 1 = the section after."""
        return [(j + 1) / (self.gap + 1) for j in range(self.gap)]

    def complete(self, restored: Image) -> Floats:
        """(K, H, W): `restored` in the unknown voxels, what is known elsewhere."""
        target = slice(*self.targets)
        return np.where(self.known[target], self.sections[target], np.asarray(restored, np.float32))

    def withheld(self) -> Case:
        """The case as a method gets it: the truth is NaN, the annotation is gone."""
        return replace(self, truth=np.full_like(self.truth, np.nan), membranes=None, labels=None, beside=None)


Method = Callable[[Case], Floats]  # -> (K, H, W) in [0, 1]


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A stack and its human annotation."""

    raw: Floats  # (Z, H, W) in [0, 1]
    voxel_nm: Voxel
    membranes: Bools | None = None  # (Z, H, W)


def check(folder: Path, tasks: Iterable[str]) -> None:
    """Whether manifest.json names the stacks of these tasks, and that of the membrane classifier. Raises ValueError."""
    named = stacks.read_manifest(folder)
    for name in ("vnc_stack1", *(_STACKS.get(task, "vnc_stack1") for task in tasks)):
        if name not in named:
            raise ValueError(f"the evaluation is made for the stack {name}, which {folder}/manifest.json does not name")


def read(folder: Path, name: str) -> Volume:
    """The stack `name` of a data folder: its manifest.json names the file and the voxel size. Raises ValueError."""
    check(folder, [task for task, stack in _STACKS.items() if stack == name])
    entry = stacks.read_manifest(folder)[name]
    arrays = stacks.read(folder, name, entry)
    raw, drawn = arrays["raw"], arrays.get("membranes")
    if len(raw) < _LEAST[name]:
        raise ValueError(f"{name} of {folder} has {len(raw)} sections; the evaluation looks at {_LEAST[name]} or more")
    marked = None if drawn is None else drawn.astype(bool)
    return Volume(raw.astype(np.float32) / np.float32(255), stacks.voxel_of(entry), marked)


def without(volume: Volume, first: int, gap: int, rows: tuple[int, int] = (0, 1 << 30), name: str = "") -> Case:
    """The case in which sections first ... first + gap - 1 are missing."""
    low, high = max(first - _SIDE, 0), min(first + gap + _SIDE, len(volume.raw))
    cut, here, targets = slice(*rows), slice(first, first + gap), (first - low, first - low + gap)
    truth = volume.raw[here, cut].copy()
    known = np.ones_like(volume.raw[low:high, cut], bool)
    known[slice(*targets)] = False
    sections = np.where(known, volume.raw[low:high, cut], HIDDEN)
    case = Case(sections, known, targets, volume.voxel_nm, (low, rows[0], 0), truth, name=name)
    if volume.membranes is None:
        return case
    drawn = volume.membranes[:, cut]
    return replace(case, membranes=drawn[here], labels=np.stack([profiles(m) for m in drawn[here]]),
                   beside=np.stack([profiles(drawn[first - 1]), profiles(drawn[first + gap])]))  # fmt: skip


def damaged(case: Case, kind: str, seed: int) -> Case:
    """A case of one missing section turned into one damaged in part: the voxels outside the damage are known."""
    rng = np.random.default_rng([seed, PARTIAL.index(kind)])
    _, mask = SIMULATORS[kind](case.truth[0], rng)
    z = case.targets[0]
    known, sections = case.known.copy(), case.sections.copy()
    known[z], sections[z] = ~mask, np.where(mask, HIDDEN, case.truth[0])
    return replace(case, known=known, sections=sections, name=f"{case.name} {kind}")


def load(folder: Path, task: str) -> list[Case]:
    """The cases of a task. Raises ValueError where the folder lacks its stack."""
    if task == "fib25":
        return _fib(read(folder, "fib25_val_z000_239"))
    if task == "pinky":
        volume = read(folder, "pinky_sample2")
        return [without(volume, z, 1, name=f"pinky z {z}") for z in range(1, len(volume.raw) - 1)]
    volume = read(folder, "vnc_stack1")
    if task == "validation":
        _check_rows(volume)
        return [without(volume, z, 1, _KEPT_ROWS, f"validation z {z}") for z in _VALIDATION]
    if task in PARTIAL:
        return [damaged(c, task, c.origin[0]) for c in _vnc(volume, 1)]
    return _vnc(volume, int(task.removeprefix("vnc")))


def _check_rows(volume: Volume) -> None:
    if volume.raw.shape[1] < _KEPT_ROWS[1]:
        low, high = _KEPT_ROWS
        raise ValueError(f"vnc_stack1 has {volume.raw.shape[1]} rows; validation looks at rows {low} to {high - 1}")


def _vnc(volume: Volume, gap: int) -> list[Case]:
    starts = range(_TEST[0], _TEST[1] - gap + 1)
    return [without(volume, z, gap, name=f"vnc_stack1 z {z}" + (f"-{z + gap - 1}" if gap > 1 else "")) for z in starts]


def _fib(volume: Volume) -> list[Case]:
    """Sections 40 nm apart out of slices 10 nm apart; the truth is a slice, not a mean over 40 nm."""
    count, step, edge, seed = _FIB
    reach = _SIDE * step
    raw = volume.raw[:, :edge, :edge]
    starts = np.random.default_rng(seed).choice(np.arange(reach, len(raw) - reach), count, replace=False)
    z_nm, y_nm, x_nm = volume.voxel_nm
    cases = []
    for z in sorted(int(s) for s in starts):
        thin = Volume(raw[z - reach : z + reach + 1 : step], (z_nm * step, y_nm, x_nm))
        cases.append(replace(without(thin, _SIDE, 1, name=f"fib25 slice {z}"), origin=(z, 0, 0)))
    return cases


def training_sections(folder: Path) -> tuple[list[Floats], list[Bools]]:
    """Real sections and their membranes, to fit the membrane classifier to: no test section, no validation row."""
    volume = read(folder, "vnc_stack1")
    if volume.membranes is None:
        raise ValueError("vnc_stack1 has no array 'membranes', to which the membrane classifier is fitted")
    rows = slice(0, _KEPT_ROWS[0])
    return list(volume.raw[_CLASSIFIED, rows]), list(volume.membranes[_CLASSIFIED, rows])


def middle(case: Case, edge: int) -> Case:
    """The case cut to `edge` pixels square in the middle, for a quick look."""
    y, x = (max(n - edge, 0) // 2 for n in case.truth.shape[1:])
    cut = (slice(None), slice(y, y + edge), slice(x, x + edge))
    z, oy, ox = case.origin

    def part(values: npt.NDArray[Any] | None) -> Any:
        return None if values is None else values[cut]

    return replace(case, sections=part(case.sections), known=part(case.known), truth=part(case.truth),
                   membranes=part(case.membranes), labels=part(case.labels), beside=part(case.beside),
                   origin=(z, oy + y, ox + x))  # fmt: skip


def limit(cases: Sequence[Case], count: int, edge: int) -> list[Case]:
    """The first `count` cases with something to restore in their middle `edge` pixels, cut to them."""
    cut = (middle(c, edge) for c in cases)
    return [c for c in cut if c.unknown.any()][:count]
