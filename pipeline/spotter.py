"""Scout and spotter: networks that see damage in a part of a section, beside its neighbours. OpenCV runs them.

They were trained by `model.spotting`; the card beside them says on what, and under which terms.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.detectors import CELL, Grey, half
from pipeline.errors import InputError

WEIGHTS = Path(__file__).parent / "weights"
CLASSES = ("intact", "fold", "crack", "contamination", "contrast")
PLACE = 16  # px: of what the scout says; edges are padded to multiples of it
MOST = 8.0  # units of tissue: greys beyond it tell the networks nothing more
STEPS, MIDDLE = 16, 128  # of a unit that the scout's bytes tell apart, and the byte of the section's median
NEAR = np.ones((3, 3), np.uint8)
SMALL, MOST_SIZES = 6 * PLACE, 12  # px, of either edge; and how many sizes, 2 MB each
_own = threading.local()  # a network holds what it computes: one a thread


def whole(image: Grey) -> Grey:
    """The image, mirrored to edges that are multiples of PLACE."""
    h, w = image.shape
    return np.pad(image, ((0, -h % PLACE), (0, -w % PLACE)), mode="reflect") if h % PLACE or w % PLACE else image


def units(image: Grey, grey: float, contrast: float) -> NDArray[np.float32]:
    """In units of tissue: 0 is the section's median, 1 the spread of its greys; none beyond MOST."""
    return _looked_up(image, np.clip((_GREYS - np.float32(grey)) / np.float32(contrast), -MOST, MOST))


def steps(image: Grey, grey: float, contrast: float) -> Grey:
    """The same as bytes, of which MIDDLE is 0 and STEPS more are 1."""
    table = np.round((_GREYS - np.float32(grey)) * np.float32(STEPS / contrast)) + MIDDLE
    return _looked_up(image, np.clip(table, 0, 255).astype(np.uint8))


def _looked_up(image: Grey, table: NDArray[Any]) -> NDArray[Any]:
    rows = image.reshape(-1, image.shape[-1])  # further axes OpenCV takes for channels, of which it has few
    return np.asarray(cv2.LUT(rows, table)).reshape(image.shape)


_GREYS = np.arange(256, dtype=np.float32)


def hints(before: Grey, here: Grey, after: Grey) -> NDArray[np.float32]:
    """What the scout is shown, as in model/spotter.py: (14, y/8, x/8). All three are cells, as `steps` has them.

    What is new in a section beyond all that is near in both neighbours, whichever way; the means of all three, and by
    how much their greys differ.
    """
    three, shown = (before, here, after), np.empty((14, here.shape[1] // 2, here.shape[2] // 2), np.float32)
    for k, (n, up) in enumerate(((0, True), (0, False), (1, True), (2, False))):
        near = (cv2.max if up else cv2.min)(before[n], after[n])
        for again in range(2):
            near = (cv2.dilate if up else cv2.erode)(near, NEAR)
            shown[2 * k + again] = _halved(cv2.subtract(here[n], near) if up else cv2.subtract(near, here[n]), cv2.max)
    for k, cells in enumerate(three):
        shown[8 + k] = half(cells[0])
        shown[11 + k] = cv2.subtract(_halved(cells[1], cv2.max), _halved(cells[2], cv2.min))
    shown[8:11] -= MIDDLE
    shown *= np.float32(1 / STEPS)
    return shown


def _halved(image: Grey, way: Any) -> Grey:
    """The greatest (or, by `cv2.min`, least) of squares of two pixels."""
    rows = way(image[::2], image[1::2])
    return np.asarray((np.maximum if way is cv2.max else np.minimum)(rows[:, ::2], rows[:, 1::2]))


def doubt(before: Grey, here: Grey, after: Grey) -> NDArray[np.float32]:
    """How likely something is damaged in each place of PLACE pixels: (y/16, x/16). All three are cells, as `steps` has
    them. Raises InputError where the network is not the one of the card.
    """
    return _chance(_run("scout.onnx", hints(before, here, after)[None])[0])


def see(before: NDArray[np.float32], here: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
    """The probability of each class for each pixel of `here`: (CLASSES, 4, 4, y/4, x/4), see `pixels`.

    The three are images (y, x) in units of tissue with edges that are multiples of PLACE, the neighbours moved to where
    `here` lies. Raises InputError where the network is not the one of the card.
    """
    logits = _run("spotter.onnx", np.stack([before, here, after])[None])
    logits = logits.reshape(len(CLASSES), CELL, CELL, *logits.shape[1:])
    powers = np.exp(logits - logits.max(0))
    return np.asarray(powers / powers.sum(0), np.float32)


def pixels(chances: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is said of the pixels of cells, (n, 4, 4, y, x), as an image: (n, 4 y, 4 x)."""
    n, high, wide, y, x = chances.shape
    return np.ascontiguousarray(chances.transpose(0, 3, 1, 4, 2)).reshape(n, y * high, x * wide)


def _chance(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))), np.float32)


def _run(name: str, shown: NDArray[np.float32]) -> NDArray[np.float32]:
    network = _network(name, shown.shape)
    network.setInput(shown)
    return np.asarray(network.forward()[0], np.float32)


def _network(name: str, shape: tuple[int, ...]) -> Any:
    """Of this thread. One that is shown another size makes room anew, which takes half as long as to look: so there are
    some for the small sizes that are looked at most."""
    networks = _own.__dict__.setdefault(name, {})
    size = shape if max(shape) <= SMALL else ()
    if size not in networks and len(networks) >= MOST_SIZES:
        networks.pop(next(iter(networks)))
    networks[size] = networks.pop(size, None) or cv2.dnn.readNetFromONNX(np.frombuffer(_content(name), np.uint8))
    return networks[size]


@functools.cache
def digest() -> str:
    """sha256 of both: findings depend on them."""
    return hashlib.sha256(b"".join(_content(name) for name in ("scout.onnx", "spotter.onnx"))).hexdigest()


@functools.cache
def _content(name: str) -> bytes:
    content = (WEIGHTS / name).read_bytes()
    said = json.loads((WEIGHTS / "spotting.json").read_text(encoding="utf-8"))
    if said["sha256"][name] != hashlib.sha256(content).hexdigest() or tuple(said["classes"]) != CLASSES:
        raise InputError(
            "a network that scans see with is not the one of its card",
            where=str(WEIGHTS / name),
            why="one of the two files was changed, or copied in part",
            do="install zmend again",
        )
    return content
