"""Scout and spotter: networks that see damage in a part of a section, beside its neighbours. OpenCV runs them.

They were trained by `model.spotting`; the card beside them says on what, and under which terms.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.detectors import Image
from pipeline.errors import InputError

WEIGHTS = Path(__file__).parent / "weights"
CLASSES = ("intact", "fold", "crack", "contamination", "contrast")
CELL, PLACE = 4, 16  # px: of what the scout is shown, and of what it says; edges are padded to multiples of it
MOST = 8.0  # units of tissue: greys beyond it tell the networks nothing more
_own = threading.local()  # a network holds what it computes: one a thread


def whole(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image, mirrored to edges that are multiples of PLACE."""
    h, w = image.shape
    return np.pad(image, ((0, -h % PLACE), (0, -w % PLACE)), mode="reflect") if h % PLACE or w % PLACE else image


def cells(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The mean, greatest and least grey of squares of CELL pixels, as the scout is shown them: (3, y/4, x/4)."""
    image = whole(image)
    box, corner, nothing = np.ones((CELL, CELL), np.uint8), (0, 0), cv2.BORDER_REPLICATE
    mean = cv2.resize(image, (image.shape[1] // CELL, image.shape[0] // CELL), interpolation=cv2.INTER_AREA)
    high, low = (way(image, box, anchor=corner, borderType=nothing)[::CELL, ::CELL] for way in (cv2.dilate, cv2.erode))
    return np.stack([mean, high, low]).astype(np.float32)


def doubt(before: NDArray[np.float32], here: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
    """How likely something is damaged in each place of PLACE pixels: (y/16, x/16). All three are `cells` in units of
    tissue. Raises InputError where the network is not the one of the card.
    """
    shown = np.clip(np.stack([before, here, after], 1), -MOST, MOST)  # means of all three, then greatest, then least
    return _chance(_run("scout.onnx", shown.reshape(1, -1, *here.shape[1:]))[0])


def see(before: Image, here: Image, after: Image) -> NDArray[np.float32]:
    """The probability of each class for each pixel of `here`: (CLASSES, y, x).

    The three are images (y, x) in units of tissue with edges that are multiples of PLACE, the neighbours moved to where
    `here` lies. Raises InputError where the network is not the one of the card.
    """
    logits = _run("spotter.onnx", np.clip(np.stack([before, here, after]), -MOST, MOST)[None])
    powers = np.exp(logits - logits.max(0))
    return np.asarray(powers / powers.sum(0), np.float32)


def _chance(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))), np.float32)


def _run(name: str, shown: NDArray[np.float32]) -> NDArray[np.float32]:
    networks = _own.__dict__
    if name not in networks:
        networks[name] = cv2.dnn.readNetFromONNX(np.frombuffer(_content(name), np.uint8))
    networks[name].setInput(shown)
    return np.asarray(networks[name].forward()[0], np.float32)


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
