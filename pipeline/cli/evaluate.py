"""zmend evaluate: a restorer against truth and baselines."""

from __future__ import annotations

import click

from pipeline.cli.handover import hand_over


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    short_help="Measure a restorer against truth and baselines (zmend evaluate --help).",
)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def evaluate(args: tuple[str, ...]) -> None:
    """Measure a restorer against truth and baselines (zmend evaluate --help).

    --ablate trains and compares variants of the network instead; --train-peers trains the learned baselines.
    """
    modules = {"--ablate": "model.ablation", "--train-peers": "model.peers"}
    asked = next((a for a in args if a in modules), "")
    rest = [a for a in args if a != asked]
    raise SystemExit(hand_over("evaluate", modules.get(asked, "model.evaluate"), rest))
