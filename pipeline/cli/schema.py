"""zmend schema: what --json prints, as JSON Schema."""

from __future__ import annotations

import json

import click

from pipeline.errors import UsageError


def _verbs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from pipeline.documents import VERBS

    return [verb for verb in VERBS if verb.startswith(incomplete)]


@click.command()
@click.argument("verb", required=False, shell_complete=_verbs)
def schema(verb: str | None) -> None:
    """Print the JSON Schema of what `zmend VERB --json` prints; without a verb, the verbs that have one.

    \b
    zmend schema status > status.schema.json

    train and evaluate write their JSON into files of their own: progress.jsonl, metrics.json.
    """
    import difflib

    from pipeline.documents import VERBS
    from pipeline.documents import schema as of

    if verb is None:
        click.echo("\n".join(VERBS))
        return
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        do = f"did you mean '{near[0]}'?" if near else f"name one of {', '.join(VERBS)}"
        raise UsageError(f"'{verb}' prints no JSON document", do=do)
    click.echo(json.dumps(of(verb), indent=1))
