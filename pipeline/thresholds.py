"""Thresholds: every number on which the detection of damage rests, each with its reason, in this one place.

They were set on some real stacks and simulated damage in them, and are reported on others: benchmarks/detection.py
says on which, and how often they are wrong. Lengths are pixels of the scan, which are about 8 nm wide (`SCAN_NM`).
`tissue` is the spread (robust standard deviation) of the section's own grey values at a blur of `smooth_px`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from pipeline.errors import UsageError

SCAN_NM = 8.0  # pixels are averaged or a coarser level is read up to this size: at 16 nm narrow cracks are lost
SENSITIVITIES = {"low": 0.75, "medium": 1.0, "high": 1.35}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What counts as damage. `scaled` are divided by the sensitivity; the others say what things are."""

    # What one looks at
    window: int = 5  # sections either side: one can still tell a step of the stack from one bad section
    smooth_px: float = 2.0  # blur under which membranes and vesicles merge, and bands of damage stay
    reach_px: int = 9  # how far profiles wander from one section to the next: 70 nm
    least_px: int = 32  # a narrower tile tells nothing

    # Empty places
    flat_grey: int = 2  # grey levels within 7 × 7 px: noise of the camera alone is more, a constant fill is less
    flat_share: float = 0.97  # of the tile: then the whole of it is empty
    flat_least: float = 0.004  # of the tile: smaller flat places are saturated tissue or resin
    blank_contrast: float = 0.25  # of the window's contrast: bare resin has noise, and no tissue

    # Whole sections: an amount and a robust z-score among those around, both of which must hold
    score: float = 4.0  # standard deviations of the window's: in stacks that vary much only much is odd
    grey: float = 0.50  # tissue; most sections of good stacks lie within 0.3, the worst within 0.7 where all vary
    contrast: float = 0.20  # natural log: a fifth more or less; good stacks stay within 0.13
    sharp: float = 0.18  # natural log: a sixth of the fine detail lost, a blur of 0.7 px; good stacks within 0.11
    noise: float = 0.18  # natural log: a fifth more fine detail; good stacks within 0.08
    streak: float = 0.60  # natural log of how far rows differ: charging; good stacks within 0.3

    # Neighbours
    same: float = 0.60  # correlation of fine detail, which is noise: real neighbours have < 0.2, copies 1
    jump_px: float = 8.0  # a section further off than profiles wander
    jump_gain: float = 0.12  # correlation must be better by this much once shifted back
    jump_corr: float = 0.25  # and must be that of neighbours

    # Places in a section
    dark: float = 0.50  # tissue: beyond all that is near in both neighbours, and all tissue around: folds, precipitate
    bright: float = 0.50  # cracks, holes
    alone: float = 1.5  # times that where there are neighbours on one side only: what ends or begins looks new
    extreme: float = 0.10  # per cent of the window's pixels that lie beyond what is called all tissue
    rim: float = 4.0  # per cent: how dark the rim of damage is at least
    spread: float = 0.0  # the damage goes on from there as far as it is beyond the neighbours by this
    area_px: int = 100  # of anything that is found
    blob_px: int = 250  # of blobs, 0.016 µm²: smaller ones are specks that no tracing falls over, and there are many
    close_px: int = 3  # gaps of a band that are bridged
    long_px: float = 85.0  # 0.7 µm: a band so long is damage though it be no darker than membranes
    thin: float = 6.0  # length over width of such a band
    blob_reach_px: int = 2  # around a blob, what is darker than all so near in both neighbours belongs to it,
    fringe: float = 0.7  # tissue: though it be less dark than the rim by this,
    fringe_px: int = 12  # up to so far from it
    band_px: float = 45.0  # length of a fold or crack, 0.36 µm: shorter ones are membranes cut lengthwise
    elongation: float = 4.0  # length over width: from here on it is a fold or a crack, below a blob
    region_px: float = 16.0  # blur under which the tissue of neighbours agrees
    region: float = 0.80  # tissue: a part of the section that is brighter or darker than in both neighbours
    region_share: float = 0.05  # of the tile; smaller ones are profiles
    displaced_fold: float = 3.0  # half widths of a fold around it in which tissue was moved
    displaced_crack: float = 5.0  # and of a crack

    @staticmethod
    def at(sensitivity: str | float) -> Thresholds:
        """The thresholds for low, medium, high or a number (1 is medium, 2 flags what is half as strong).

        Raises UsageError for anything else.
        """
        try:
            factor = SENSITIVITIES[sensitivity] if sensitivity in SENSITIVITIES else float(sensitivity)
        except (ValueError, TypeError):
            factor = 0.0
        if not 0.1 <= factor <= 10:
            raise UsageError(
                f"--sensitivity '{sensitivity}' is not understood",
                why="it is low, medium, high, or a number from 0.1 to 10 where 1 is medium",
                do="zmend scan raw.zarr --out flags.csv --sensitivity high",
            )
        plain = Thresholds()
        return replace(plain, **{f.name: getattr(plain, f.name) / factor for f in fields(plain) if f.name in SCALED})


SCALED = {"score", "grey", "contrast", "sharp", "noise", "streak", "dark", "bright", "region"}
