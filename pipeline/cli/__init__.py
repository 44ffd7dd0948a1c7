"""The command `zmend`, a file a verb. Only this package and `show` talk to people; heavy imports wait inside the verbs.

root is what verbs share, entry where they are called from, handover the way to the commands of `model`.
"""

from pipeline.cli import (
    completion,
    demo,
    doctor,
    evaluate,
    export,
    merge,
    nightly,
    plan,
    prune,
    report,
    run,
    scan,
    schema,
    status,
    train,
    verify,
    view,
)
from pipeline.cli.entry import main
from pipeline.cli.root import cli

for _verb in (
    plan.plan, scan.scan, run.run, merge.merge, nightly.nightly, status.status, verify.verify, report.report, view.view,
    export.export, prune.prune, demo.demo, doctor.doctor, train.train, evaluate.evaluate, schema.schema,
    completion.completion,
):  # fmt: skip
    cli.add_command(_verb)
completion.complete_files(cli)

__all__ = ["cli", "main"]
