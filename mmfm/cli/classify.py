"""`mmfm classify`: which of the user's labels fits each picture."""

from __future__ import annotations

import click

from mmfm.cli.options import Run, shared
from mmfm.cli.pictures import expand
from mmfm.errors import TextError


@click.command("classify")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--labels", required=True, help='The labels to choose from: "cat,dog,a red car".')
@shared
def command(run: Run, images: tuple[str, ...], labels: str) -> None:
    """Say which of your labels fits each picture (or each picture of a folder)."""
    names = [name.strip() for name in labels.split(",")]
    if len(names) < 2 or "" in names or len(set(names)) < len(names):
        raise TextError(
            f"--labels got '{labels}'; it wants two or more different labels with commas between"
        )
    paths = expand(images)
    table = run.load().classify(paths, names)
    found, lines = [], []
    for path, row in zip(paths, table):
        scores = {name: round(float(score), 6) for name, score in zip(names, row)}
        best = max(scores, key=scores.__getitem__)
        found.append({"path": path, "label": best, "scores": scores})
        lines.append(f"{path}\t{best}\t{scores[best]:.3f}")
    run.result(found, "\n".join(lines))
