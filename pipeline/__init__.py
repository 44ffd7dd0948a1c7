"""zmend's pipeline: from flags and a volume to a mended volume with provenance. Rooms, from the ground up:

errors      what can go wrong, and exit codes          flagfile    reading flags that people wrote
box         boxes and grids, (z, y, x), half-open      store       the output group: merged levels, overlay, labels
recipe      everything that can change a voxel         plan        slabs, by arithmetic; paper: of no volume
site        everything that cannot change a voxel      blend       seat a patch, check it, cast it
config      zmend.yaml                                 intensity   black and white of 16-bit volumes
ome         OME-NGFF metadata                          ledger      records; lock: one live run; clone: copies
files       objects under an address: disk, bucket, web slab        one unit of work, read to record
layout      how an array lies among them               merge       overlay and source to a full volume
locate      which array an address means               job         configuration → plan → store → worker
volume      one Zarr array; coder, shard, zarrstore:    worker      one slab in a worker; attempts: what failed, and why
lanes       what a worker's threads share              selftest    what a worker shows before its first slab
flags       what is missing or damaged                 crew        the window of slabs; cluster: the workers
restorer    the protocol; nearest, linear              run         the driver; runlog: what it says of itself
phantom     tissue whose truth is known                verify      is the store what it says?
lessons     what training learns from: columns         cli, show   the command, a file a verb; demo, doctor
slurm       the jobs that workers live in              batch       scripts for sbatch; drain: how a worker leaves
fitness     can the site do the job? doctor asks       report      pages to look at and judge from

(coder: chunks on a disk without zarr's detours; unpack: no more than there must be; shard: the index of one, and
grafting; zarrstore: where zarr writes; foreign, precomputed, tensors: sources that are not Zarr.)

Of what was and what counts: state, what a run found in force; force, what a pass over the records finds, and retiring
them; kept, chunks out of force; revert, back to a state; verdicts and review, what people say of slabs; remerge, a
merge of what they accepted; signature, who vouches for it; takeover, from what is in force to a new plan; prune, room.

Of a slab: sight, what it sees; gap, what the restorer is shown; patch, what came back, judged; outcome, all it decides.
Of the store: claim, whether what lies there is one, of this source; foundation, how it is made, and grows.
Of a merge: pyramid, how coarser levels follow; target, an array and its touched cells; journal, what was written from
what; rewrite, of touched chunks; rest, all others.

Of the driver, besides: shift, what its crew does for one run; ids and slabs in columns; planfile, a plan to read;
lattice, many alike as one, inputs, what they read, totals, what they add up to, touched, chunks that they write to,
and memory, what all that takes at most; pace, queue and flight of the slabs
in hand; packfile and packs, many records in one file, and rows, the same as columns; failpoint, where tests make a
process fail.

Of what it takes: workload, what a plan asks for; cost, what that takes at the rates of a site; trial and calibrate,
which measure them; rates, which keeps them; forecast, all of that for one job; quick, whether it needs no workers;
walk, the order of slabs, and shelf, what they share of what they have read, so that each chunk is read once.

Of running again, besides: explain, why a slab would be done or not; kin, what was done and is known by another id now.
Of verify, besides: seal, what all documents were when the last run ended; check, one question and its answer; threads,
work over a few of them; digests, identity, lineage and replay, the questions by level; story, all that is known of one
voxel; confine, that writing stays in the store.
Of exports: account, what one run did; crate and prov, the same for other tools.
Of looking: scene, what Neuroglancer is to show; viewer, which serves it.

Of nights: nightly, a cycle of scan, plan, run and verify; page, what it tells; schedule, who calls it.

Of scan, the pass that finds damage: look and looked, how and at what; findings, flagedit and maskfile, what is written;
thresholds, every number in it; cell, what a worker goes over; detectors, what can be measured; spotter, networks that
see parts; view, a tile's sections and their numbers; detect and places, what follows for sections and parts of them;
flagreaders and drawings, what other programs write.

Imports only point down; `make check` holds them to it.
"""
