"""`mmfm generate`: texts and pictures become pictures, each saying how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mmfm.cli.drawn import Request, drawing_model, drawing_options, facts_of, save
from mmfm.cli.options import Run, given, shared
from mmfm.errors import TextError


@click.command("generate")
@click.argument("prompt", required=False)
@drawing_options
@click.option("--image", help="A picture it shall be like; with --strength or --mask, change it.")
@click.option("--image-guidance", type=click.FloatRange(0, 100),
              help="How strictly to follow the picture, beside a text.")  # fmt: skip
@click.option("--strength", type=click.FloatRange(0, 1),
              help="Begin with the picture, noisy: 0 keeps it, 1 forgets it.")  # fmt: skip
@click.option("--mask", help="A picture of the same size: draw where it is light, keep the rest.")
@click.option("--outpaint", type=click.FloatRange(0, 0.5, min_open=True, max_open=True),
              help="Make the picture smaller, draw this share on each side.")  # fmt: skip
@click.option("--to", help="A text or picture: draw -n pictures on the way there, and a strip.")
@click.option("--height", type=click.IntRange(1), help="In pixels; default: the model's own.")
@click.option("--width", type=click.IntRange(1), help="In pixels; default: the model's own.")
@shared
def command(
    run: Run, prompt: str | None, image: str | None, image_guidance: float | None,
    strength: float | None, mask: str | None, outpaint: float | None, to: str | None,
    height: int | None, width: int | None, **asked: Any,
) -> None:  # fmt: skip
    """Draw pictures from a text, a picture, both, or nothing at all.

    Several pictures go to out-0.png, out-1.png and so on, with out-sheet.png to see them together;
    with --to there is out-strip.png, which moves. Without --seed one is drawn and told, so that
    the picture can be made again.
    """
    request = Request(**asked)
    if prompt is not None and not prompt.strip():
        raise TextError("the prompt is empty; say in a few words what to draw")
    if image is None and (strength is not None or mask is not None or outpaint is not None):
        raise click.UsageError("--strength, --mask and --outpaint change a picture: give --image")
    if outpaint is not None and mask is not None:
        raise click.UsageError("--outpaint makes its own mask: leave --mask out")
    if to is not None and (mask is not None or strength is not None or outpaint is not None):
        raise click.UsageError("--to goes from one text or picture to another: it changes none")
    if to is not None and (prompt is None) == (image is None):
        raise click.UsageError("--to needs one place to begin: a text or --image")
    target, begin, end = request.target, _end(prompt), _end(to)
    sees = image is not None or request.rerank > 1 or any(isinstance(x, Path) for x in (begin, end))
    model = drawing_model(run, sees)
    settings = request.settings(
        run, model, strength=strength, image_guidance_scale=image_guidance, height=height,
        width=width,
    )  # fmt: skip
    files = {"from_image": image, "mask": mask}
    named = {key: Path(path).name for key, path in given(**files).items()}
    facts = facts_of(run, model, **given(prompt=prompt, to=to), **named,
                     **given(outpaint=outpaint), **settings)  # fmt: skip
    how = {**settings, "progress": run.progress, "callback": request.callback(facts)}
    if to is not None:
        del how["rerank"]
        count = request.num_images if request.num_images > 1 else 7
        images = model.interpolate(begin if image is None else Path(image), end, count, **how)
    elif outpaint is not None:
        images = model.outpaint(image, prompt, margin=outpaint, num_images=request.num_images,
                                **how)  # fmt: skip
    else:
        images = model.generate(prompt, image=image, mask=mask, num_images=request.num_images,
                                **how)  # fmt: skip
    save(run, images, target, facts, strip=to is not None)


def _end(words: str | None) -> str | Path | None:
    """A text, or the picture that it names."""
    try:
        return Path(words) if words is not None and Path(words).is_file() else words
    except (OSError, ValueError):  # too long for a name, or one that no file can have
        return words
