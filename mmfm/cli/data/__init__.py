"""`mmfm data`: look at pictures with captions, shard them, filter them, embed them once."""

from __future__ import annotations

import click

from mmfm.cli.table import VerbTable

VERBS = {  # verb -> its line in the help; its module is mmfm.cli.data.<verb>
    "inspect": "Say what a folder of data is, and what is wrong with it.",
    "shard": "Write any folder of data as indexed shards.",
    "filter": "Keep what is good and new, and write down what was dropped.",
    "embed": "Embed shards once, on one machine or on many.",
}


@click.group(
    "data",
    cls=VerbTable,
    verbs=VERBS,
    package=__name__,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Pictures with captions: look at them, shard them, filter them, embed them once."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
