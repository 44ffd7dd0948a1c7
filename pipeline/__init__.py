"""zmend's pipeline: from flags and a volume to a mended volume with provenance. Rooms, from the ground up:

errors      what can go wrong, and exit codes          store       the output group: merged levels, overlay, labels
box         boxes and grids, (z, y, x), half-open      plan        slabs, by arithmetic
recipe      everything that can change a voxel         blend       seat a patch, check it, cast it
config      zmend.yaml                                 intensity   black and white of 16-bit volumes
ome         OME-NGFF metadata                          ledger      records; lock: one live run
volume      one Zarr array (the only user of zarr)     slab        one unit of work, read to record
flags       what is missing or damaged                 merge       overlay and source to a full volume
restorer    the protocol; nearest, linear              job         configuration → plan → store → worker
phantom     tissue whose truth is known                run         the driver; cluster: where it runs
verify      is the store what it says?                 cli, show   the command, and how it talks

Imports only point down; `make check` holds them to it.
"""
