"""The argument and options by which a data verb is told where its pictures are."""

from __future__ import annotations

from collections.abc import Callable

import click

# as mmfm.data.layouts.KINDS has them; not imported, so that --help stays quick
KINDS = ("tars", "table", "txt", "classes", "pictures")


def source(verb: Callable[..., None]) -> Callable[..., None]:
    """Decorate a verb with PATH, `--layout` and `--images`, what `open_layout` takes."""
    for option in (
        click.option("--images", metavar="FOLDER", help="Where the names of a table start from."),
        click.option("--layout", type=click.Choice(KINDS), help="Instead of the one recognised."),
        click.argument("path"),
    ):
        verb = option(verb)
    return verb
