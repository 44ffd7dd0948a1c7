"""zmend completion: what a shell needs to complete verbs, options, their values and files."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.root import cli

VARIABLE = "_ZMEND_COMPLETE"  # by which the shell asks; the library's own name for it
FILES = {
    *("config", "store", "volume", "place", "subject"),  # arguments
    *("out", "masks", "reviewed", "site", "flags", "verdicts", "key", "sign", "to", "crate", "prov", "data", "state"),
}


class Address(click.types.StringParamType):
    """A path, or a URL: a shell completes the first."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


def complete_files(group: click.Group) -> None:
    """Let shells complete files wherever a verb takes one."""
    for verb in group.commands.values():
        for param in verb.params:
            if param.name in FILES and isinstance(param.type, click.types.StringParamType):
                param.type = Address()


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes a shell complete verbs, options, their values and files.

    \b
    zmend completion bash >> ~/.bashrc
    zmend completion zsh >> ~/.zshrc
    zmend completion fish > ~/.config/fish/completions/zmend.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None, "the choices are those that the library has"
    click.echo(found(cli, {}, "zmend", VARIABLE).source())
