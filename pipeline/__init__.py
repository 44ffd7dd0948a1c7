"""zmend's pipeline: from flags and a volume to a mended volume with provenance. Rooms, from the ground up:

errors      what can go wrong, and exit codes          flagfile    reading flags that people wrote
box         boxes and grids, (z, y, x), half-open      store       the output group: merged levels, overlay, labels
recipe      everything that can change a voxel         plan        slabs, by arithmetic; paper: of no volume
config      zmend.yaml                                 blend       seat a patch, check it, cast it
ome         OME-NGFF metadata                          intensity   black and white of 16-bit volumes
files       objects in a folder or behind a URL        ledger      records; lock: one live run
layout      how an array lies among them               slab        one unit of work, read to record
locate      which array an address means               merge       overlay and source to a full volume
volume      one Zarr array (the only user of zarr)     job         configuration → plan → store → worker
flags       what is missing or damaged                 run         the driver; cluster: where it runs
restorer    the protocol; nearest, linear              verify      is the store what it says?
phantom     tissue whose truth is known                cli, show   the command, and how it talks; demo, doctor

Imports only point down; `make check` holds them to it.
"""
