"""`mmfm generate`: a text becomes pictures, each saying in its metadata how it was made."""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from mmfm.cli.options import Run, given, shared
from mmfm.cli.outputs import writable_file
from mmfm.cli.pictures import SUFFIXES, save_generated
from mmfm.errors import TextError


@click.command("generate")
@click.argument("prompt")
@click.option("-o", "--output", required=True, help="Picture to write: .png, .jpg or .webp.")
@click.option("-n", "--num-images", type=click.IntRange(1, 256), default=1, show_default=True)
@click.option("--steps", type=click.IntRange(1, 1000), help="Sampling steps: more is finer.")
@click.option("--guidance", type=click.FloatRange(0, 100), help="How strictly to follow the text.")
@click.option("--negative", help="What the picture should not be.")
@click.option(
    "--rerank", type=click.IntRange(1, 64), default=1, show_default=True,
    help="Draw this many for each picture and keep the best by the model's own judgement.",
)  # fmt: skip
@shared
def command(
    run: Run,
    prompt: str,
    output: str,
    num_images: int,
    steps: int | None,
    guidance: float | None,
    negative: str | None,
    rerank: int,
) -> None:
    """Draw pictures from a text.

    Several pictures go to out-0.png, out-1.png and so on, with out-sheet.png to see them together.
    Without --seed one is drawn and told, so that the picture can be made again.
    """
    if not prompt.strip():
        raise TextError("the prompt is empty; say in a few words what to draw")
    target = writable_file(output, SUFFIXES)
    names = [target] if num_images == 1 else [_beside(target, str(i)) for i in range(num_images)]
    seed = secrets.randbelow(2**31) if run.seed is None else run.seed
    model = run.load()
    asked = given(num_steps=steps, guidance_scale=guidance, negative_prompt=negative)
    settings = {**model.config.generation, **asked, "seed": seed, "rerank": rerank}
    images = model.generate(prompt, num_images=num_images, progress=run.progress, **settings)

    from mmfm import __version__

    facts = {
        "prompt": prompt,
        **settings,
        "model": run.model,
        "backbone": model.backbone_hash,
        "software": f"mmfm {__version__}",
    }
    for i, (image, name) in enumerate(zip(images, names)):
        save_generated(image, name, {**facts, "image": f"{i + 1} of {num_images}"})
    if num_images > 1:
        from mmfm.cli.sheet import contact_sheet

        sheet = _beside(target, "sheet")
        save_generated(contact_sheet(images, cell=max(128, model.image_size)), sheet, facts)
        run.say(f"all of them on {sheet}")
    run.say(f"seed {seed}; --seed {seed} draws the same again")
    run.result({**facts, "paths": [str(name) for name in names]}, "\n".join(map(str, names)))


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(f"{target.stem}-{ending}{target.suffix}")
