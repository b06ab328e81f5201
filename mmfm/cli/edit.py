"""`mmfm edit`: a picture changed by the difference of two texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mmfm.cli.drawn import Request, drawing_options, facts_of, save
from mmfm.cli.options import Run, shared


@click.command("edit")
@click.argument("image")
@click.option("--from", "source", required=True, help='What it shows now: "a cat".')
@click.option("--to", "target", required=True, help='What it shall show: "a dog".')
@click.option("--amount", type=click.FloatRange(0, 1), default=0.5, show_default=True,
              help="How far to go.")  # fmt: skip
@click.option("--strength", type=click.FloatRange(0, 1), default=0.7, show_default=True,
              help="How much of the picture itself to draw anew.")  # fmt: skip
@drawing_options
@shared
def command(
    run: Run, image: str, source: str, target: str, amount: float, strength: float, **asked: Any
) -> None:
    """Change a picture by the difference of two texts.

    Its vector is moved from what one text says towards the other; the rest of it stays alike.
    """
    request = Request(**asked)
    output, model = request.target, run.load()
    settings = request.settings(run, model, strength=strength)
    facts = facts_of(run, model, from_image=Path(image).name, source=source, target=target,
                     amount=amount, **settings)  # fmt: skip
    images = model.edit(
        image, source, target, amount=amount, num_images=request.num_images, **settings,
        progress=run.progress, callback=request.callback(facts),
    )  # fmt: skip
    save(run, images, output, facts)
