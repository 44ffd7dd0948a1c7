"""Documents: what `--json` prints, verb by verb, as types; `zmend schema VERB` prints them as JSON Schema.

Keys may be added in later versions; those that are here keep their meaning. Boxes are [start, stop], each [z, y, x],
half-open; bytes, seconds and voxels are what their names say; null is "not known".
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

ZYX = tuple[int, int, int]
Corners = tuple[ZYX, ZYX]
Table = dict[str, Any]  # of names and values that others define: a recipe, a restorer's answers


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Left(_Document):
    """Flagged sections that are not restored."""

    z: tuple[int, int]
    voxels: int = 0
    why: str


class Refused(_Document):
    """Flagged sections that a plan will not restore; the box is [start, stop] in [y, x]."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    z: tuple[int, int]
    box: tuple[tuple[int, int], tuple[int, int]]
    kind: str = Field(alias="class")
    why: str


class Brief(_Document):
    """A certificate: how well intact sections come back."""

    status: str = Field(description="measured, nothing, failed")
    why: str = ""
    tiles: int = 0
    sections: list[Any] = Field(default_factory=list)
    restored: Table = Field(default_factory=dict)
    linear: Table = Field(default_factory=dict)
    ensemble: Table = Field(default_factory=dict)


class _Count(_Document):
    run: str
    slabs: int
    done: int
    quarantined: int
    left_out: int = Field(description="slabs that a reviewer did not accept; they are none of the quarantined")
    not_restorable: list[Left]
    voxels_restored: int
    voxels_uncertain: int
    certificate: Brief | None
    output: str
    plan: str


class Summary(_Count):
    """The end of a run."""

    bytes_read: int
    bytes_written: int
    seconds: float


class Foreseen(_Document):
    """What a run was foreseen to take when it began, and took."""

    run: str
    wall_s: float
    low_s: float
    high_s: float
    worker_hours: float
    took_s: float | None = Field(description="null where the run has not ended")


class Status(_Count):
    """How far a store is."""

    pending: int
    merged: bool
    behind: bool = Field(description="there is a merged volume, but it is not what the overlay holds: zmend merge")
    signed: str = Field(description="by whom, in words; no; or which run took the signature away")
    locked: bool
    foreseen: Foreseen | None = Field(description="the last run that did anything, if its site was measured before")


class Watched(_Document):
    """A run as it comes along: `zmend status -w --json` prints one a line."""

    output: str
    run: str
    live: bool
    phase: str = Field(description="starting, restoring, certificate, merge, ended")
    slabs: int
    done: int
    pending: int
    quarantined: int
    failures: int
    steps_done: int
    steps: int
    workers: int
    slabs_per_second: float | None
    seconds_left: int | None
    restorer_share: float | None = Field(description="of the workers' time, that their restorers were at work")


class FlagSaid(_Document):
    """A flag, as whoever set it said it."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    kind: str = Field(alias="class")
    box: Corners
    mask: str
    source: str
    note: str


class FlagHere(FlagSaid):
    """A flag that reaches into a slab."""

    voxels: int


class PlanPlace(_Document):
    """A slab's place in the plan in force."""

    hash: str
    number: int
    of: int


class ChunkState(_Document):
    """A chunk of a record."""

    box: Corners
    as_written: bool


class Order(_Document):
    """What a review asked for."""

    attempt: int
    rejected: str
    verdicts: str


class Dossier(_Document):
    """All that is known of one slab: `zmend status STORE SLAB`."""

    output: str
    slab: str
    plan: PlanPlace
    write: Corners
    read: Corners
    flags: list[FlagHere]
    state: str = Field(description="pending, done, quarantined")
    attempts: list[Table] = Field(description="events of the logs: failure, straggler, slab")
    record: Table | None
    inputs_match: bool | None
    chunks: list[ChunkState]
    merged: bool | None
    verdict: Order | None
    history: list[Table]
    doubts: list[str]
    ok: bool


class Source(_Document):
    """The volume of a plan."""

    uri: str
    level: int
    shape: ZYX
    dtype: str
    itemsize: int
    voxel_nm: tuple[float, float, float] | None
    fingerprint: str
    missing_chunks: str


class FlagsFile(_Document):
    """The flags of a plan."""

    path: str
    digest: str
    count: int
    copy_sha256: str


class Totals(_Document):
    """What a plan costs."""

    slabs: int
    voxels: int
    bytes_to_read: int
    bytes_to_write: int
    bytes_to_merge: int
    peak_memory_bytes: int = Field(description="of a process that restores, if nothing holds it back")
    least_memory_bytes: int = Field(description="of one that does one slab at a time")
    seconds: float = Field(description="of one worker; 0: the restorer declares no pace")


class Cost(_Document):
    """What a job takes on its site. Seconds and hours are null where nothing that fits was measured (`why`); bytes are
    then those before compression."""

    bytes_read: int = Field(description="by restoring; the merge's are beside it")
    bytes_written: int
    merge_bytes_read: int
    merge_bytes_written: int
    worker_hours: float | None = Field(description="of all workers together: GPU-hours where `gpu` is true")
    wall_s: float | None
    low_s: float | None = Field(description="the wall's range: from one that overlaps all stages")
    high_s: float | None = Field(description="to one that overlaps none")
    workers: int
    merge_s: float | None = Field(description="of the wall, in the driver alone")
    driver_s: float | None = Field(description="that scheduling takes, in the driver")
    restorer_share: float | None = Field(description="of the workers' time, that their restorers are at work")
    gpu: bool
    measured: str = Field(description="the day of the calibration")
    machine: str
    why: str = Field(description="why nothing was measured that fits; else empty")


class ExplainRow(_Document):
    """Why a slab would be done, or not."""

    slab: str
    write: Corners
    why: str
    detail: str


class Reasons(_Document):
    """Why slabs would be done, or not."""

    slabs: int
    todo: int
    counts: dict[str, int]
    taken_back: list[tuple[int, int]]


class Explained(Reasons):
    """The same, slab by slab."""

    rows: list[ExplainRow]


class Memory(_Document):
    """What one process of a job takes at most on its site, besides Python and its libraries."""

    restore_bytes: int
    merge_bytes: int = Field(description="the driver, once all is restored; 0: there is nothing to merge")


class Plan(_Document):
    """What would be done: `zmend plan CONFIG`, `zmend run -n`."""

    plan: str
    file: str
    certificate_seconds: int
    cost: Cost
    memory: Memory
    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    plan_schema: str = Field(alias="schema")
    source: Source
    flags: FlagsFile
    recipe: Table
    recipe_digest: str
    restorer: Table
    slab_cell: ZYX
    totals: Totals
    not_restorable: list[Refused]
    explain: Explained | None = None


class Paper(Totals):
    """A plan of a volume that need not exist: `zmend plan --shape`."""

    shape: ZYX
    bytes: int
    sections_flagged: int
    slab_px: int
    gpu_hours: float
    pace_mpx_s: float
    cost: Cost = Field(description="of workers like those that were measured")
    gpu_cost: Cost = Field(description="of the same with restorers of that pace")
    merge_s: int | None = Field(description="of a merge besides, in the driver alone")
    halo_overhead: float
    not_restorable: list[Refused]
    planning_seconds: float
    planning_peak_mib: int


class Reverted(_Document):
    """`zmend run STORE --revert RUN`."""

    run: str
    reverted: list[str]
    plan: str
    slabs: int
    brought_back: int
    retired: int
    merged: bool
    dry_run: bool = Field(description="whether this is what would be done; then `run` is empty")
    output: str
    seconds: float


class Ordered(_Document):
    """`zmend run --only rejected --dry-run`."""

    output: str
    plan: str
    rejected: int
    made_again: list[str] = Field(description="slabs, with another seed")
    ordered_before: int = Field(description="slabs that this very file rejected before: it counts once")
    besides: int = Field(description="slabs that no run has done yet, which nobody rejected: they are done too")
    dry_run: bool


class Pruned(_Document):
    """`zmend prune`."""

    output: str
    reverts: int = Field(description="how many of the last runs can still be reverted")
    chunks: int
    bytes: int
    dry_run: bool


class Written(_Document):
    """Scripts that were written, and what to do with them: `zmend run --render DIR`."""

    folder: str
    do: str


class Scripts(_Document):
    """Scripts by their name: `zmend run --render`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str]


class Rendered(_Document):
    """What calls a cycle every night: `zmend nightly --render`."""

    render: str
    text: str


class Merged(_Document):
    """`zmend merge`; the first three with --only accepted alone."""

    run: str = ""
    slabs_accepted: int = 0
    slabs_left_out: int = 0
    output: str
    chunks_rewritten: int
    chunks_linked: int
    chunks_copied: int
    voxels_changed: int
    bytes_read: int
    bytes_written: int


class Moved(_Document):
    """From a section on the stack lies elsewhere: by so many voxels, as so many of all tiles see it."""

    section: int
    y_px: int
    x_px: int
    tiles: int
    of: int
    far: str


class _Scan(_Document):
    flags: str
    masks: str
    volume: str
    level: int
    scan_shape: ZYX
    voxel_nm: tuple[float, float, float] | None
    found: int
    added: int
    gone: int
    held: list[int]
    classes: dict[str, int]
    jumps: list[int]
    moves: list[Moved]
    new: list[Any]
    sections: int
    looked_at: int
    cells: int
    bytes_read: int
    seconds: float


class Scanned(_Scan):
    """`zmend scan`: rows are the lines of the flags file."""

    rows: list[Table]


class Checked(_Document):
    """One check of verify."""

    name: str
    ok: bool
    detail: str
    findings: list[str]


class Verified(_Document):
    """`zmend verify`; a count is null where its check was not carried out."""

    ok: bool
    level: str
    unfinished: str
    checks: list[Checked]
    output: str
    plan: str
    slabs: int
    voxels_compared: int | None
    voxels_changed_outside_mask: int | None
    voxels_synthetic: int | None
    voxels_uncertain: int | None
    voxels_left: int | None
    replayed: int


class Spread(_Document):
    """Of the ensemble at one voxel."""

    counts: int
    grey_levels: float
    refuse_above: float | None


class Story(_Document):
    """One voxel's story: `zmend verify --at`."""

    output: str
    at: ZYX
    label: int
    meaning: str
    value: int
    source_value: int
    flags: list[FlagSaid]
    uncertainty: Spread | None
    record: Table | None
    why_left: str
    inputs_match: bool | None
    chunk_matches: bool | None
    history: list[Table]
    doubts: list[str]
    ok: bool


class Skipped(_Document):
    """Not verified: nothing that is recorded has changed since then. nights: ended like this since."""

    skipped: str
    verified_at: str
    nights: int


class Night(_Document):
    """`zmend nightly`."""

    version: str
    host: str
    began: str
    ended: str
    volume: str
    output: str
    taken_over: bool
    sections: int
    new: int
    scan: _Scan | None = None
    explain: Reasons
    run: Summary
    verify: Verified | Skipped | None = None
    page: str
    headline: str


class Report(_Document):
    """`zmend report STORE`."""

    report: str
    defects: int
    pictured: int
    bytes: int
    seconds: float


class Sheet(_Document):
    """`zmend report VOLUME --flags FILE`."""

    report: str
    flags: int
    pictured: int
    bytes: int
    seconds: float


class View(_Document):
    """`zmend view STORE`, while it serves."""

    url: str
    from_elsewhere: str
    defects: int | str
    keys: str


class Link(_Document):
    """`zmend view STORE --link FILE`."""

    link: str
    layers: list[str]
    defects: int
    use: str
    left_out: str = ""


class Crate(_Document):
    """`zmend export --crate`."""

    crate: str
    run: str
    records: int
    bytes_per_record: float


class Prov(_Document):
    """`zmend export --prov`."""

    prov: str
    run: str
    records: int


class Method(_Document):
    """A method of the demo against the truth."""

    model_config = ConfigDict(extra="allow")
    method: str


class Demo(_Document):
    """`zmend demo`."""

    methods: list[Method]
    picture: str
    output: str
    verified: bool
    run: Summary


class Finding(_Document):
    """One finding of the doctor."""

    name: str
    ok: bool
    detail: str
    do: str


class Examined(_Document):
    """`zmend doctor`."""

    ok: bool
    findings: list[Finding]


VERBS: dict[str, Any] = {
    "plan": Plan | Paper,
    "scan": Scanned,
    "run": Summary | Plan | Reverted | Ordered | Written | Scripts,
    "merge": Merged,
    "nightly": Night | Rendered,
    "status": Status | Watched | Dossier,
    "verify": Verified | Story,
    "report": Report | Sheet,
    "view": View | Link,
    "export": Crate | Prov,
    "prune": Pruned,
    "demo": Demo,
    "doctor": Examined,
}


def schema(verb: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of what `zmend VERB --json` prints."""
    made = TypeAdapter(VERBS[verb]).json_schema(by_alias=True, mode="serialization")
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"zmend {verb} --json"}
    return {**made, **about}
