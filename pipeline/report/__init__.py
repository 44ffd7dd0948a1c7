"""Report: a store, or a flags file, as one page that people look at before they believe.

    defects     what was flagged, what records say of it, which to show first
    window      the few voxels of each that are shown, and where
    scores      how the restored voxels agree with their neighbours; steps at the rim
    pictures    arrays as small pictures, within a budget of bytes; masks as outlines
    history     runs, and what their logs tell of time, failures and throughput
    charts      the same as drawings
    mended      a store's page: all of it put together
    sheet       a flags file's page: a contact sheet to accept and reject from, before anything is restored
    page        documents to HTML: one file, no network, nothing that a name could make run

The page asks nothing of the network and keeps verdicts in memory until they are exported.
"""

from pipeline.report.mended import report
from pipeline.report.sheet import contact_sheet

__all__ = ["contact_sheet", "report"]
