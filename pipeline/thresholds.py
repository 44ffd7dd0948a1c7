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
    smooth_px: float = 2.0  # blur under which membranes and vesicles merge
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

    # Places in a section: where to look, and what amounts to damage: pixels, each counted by how sure the spotter is
    # of it (1: certainly damaged, 0: as likely as not)
    doubt: float = 0.7  # of the scout, at which one looks, and what places amount to, each counted by its doubt:
    doubts: float = 2.0  # nearly all simulated damage of medium severity has more; 2 % of intact tissue is looked at
    many: float = 8.0  # places: if they are so many, less doubt of each is enough: regions of other contrast
    glance: float = 150.0  # seen there, at which one looks closer and farther around; nearly all such damage has more
    fold: float = 800.0  # simulated ones amount to 3,100 and more, intact places to 280
    crack: float = 650.0  # 2,000; 270
    contamination: float = 345.0  # 370; 310
    region: float = 550.0  # of other contrast: 800; 210
    alone: float = 1.5  # times those where there are neighbours on one side only: what ends or begins looks new
    alike: float = 0.25  # times those: so sure must the further parts of a finding be
    together: float = 1.5  # times those, of all parts: dirt comes in many spots; simulated ones amount to 950 together
    least_part: int = 60  # px: smaller ones are specks that no tracing falls over, and there are many
    elongation: float = 5.0  # length over width, times the share that looks like a band: below it is blobs

    def sure(self, kind: str) -> float:
        """What a part of that class must amount to."""
        return float(getattr(self, "region" if kind == "contrast" else kind))

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


SCALED = {
    "score", "grey", "contrast", "sharp", "noise", "streak",
    "doubt", "doubts", "many", "glance", "fold", "crack", "contamination", "region",
}  # fmt: skip
