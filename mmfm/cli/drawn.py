"""What the verbs that draw share: their options, and the files they leave."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmfm.cli.options import Run, given
from mmfm.cli.outputs import writable_file
from mmfm.cli.pictures import SUFFIXES, save_generated
from mmfm.errors import ModelError

if TYPE_CHECKING:
    from PIL import Image

SAMPLERS = ("euler", "heun", "unipc", "few")
FRAME = 160  # milliseconds of a frame of a strip
BETWEEN = 0.5  # seconds, at least, from one preview to the next


def drawing_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Decorate a verb with the options of every drawing; it receives them by name."""
    options = [
        click.option("-o", "--output", required=True,
                     help="Picture to write: .png, .jpg or .webp."),
        click.option("-n", "--num-images", type=click.IntRange(1, 256), default=1,
                     show_default=True),
        click.option("--steps", type=click.IntRange(1, 1000), help="More are finer."),
        click.option("--sampler", type=click.Choice(SAMPLERS), help="Default: euler."),
        click.option("--guidance", type=click.FloatRange(0, 100),
                     help="How strictly to follow what is asked for; 1 = no guidance."),
        click.option("--negative", help="What the picture should not be."),
        click.option("--rerank", type=click.IntRange(1, 64), default=1, show_default=True,
                     help="Draw this many for each picture and keep the best by the model's own "
                          "judgement."),
        click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]),
                     help="Default: bf16 where it is faster and the pictures stay the same."),
        click.option("--preview", help="Picture that shows, again and again, how far it is."),
    ]  # fmt: skip
    for option in reversed(options):
        verb = option(verb)
    return verb


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `drawing_options`, as they came."""

    output: str
    num_images: int
    steps: int | None
    sampler: str | None
    guidance: float | None
    negative: str | None
    rerank: int
    precision: str | None
    preview: str | None

    def settings(self, run: Run, model: Any, **more: Any) -> dict[str, Any]:
        """What `generate` is told, and the files' metadata with it; a seed is drawn if need be."""
        seed = secrets.randbelow(2**31) if run.seed is None else run.seed
        asked = given(num_steps=self.steps, sampler=self.sampler, guidance_scale=self.guidance,
                      negative_prompt=self.negative, precision=self.precision, **more)  # fmt: skip
        usual = dict(model.config.generation)
        if self.sampler == "few":  # it has its own
            usual = {k: v for k, v in usual.items() if k not in ("num_steps", "guidance_scale")}
        return {**usual, **asked, "seed": seed, "rerank": self.rerank}

    @property
    def target(self) -> Path:
        """Where the picture goes. Raises OutputError when it cannot go there."""
        if self.preview is not None:
            writable_file(self.preview, SUFFIXES)
        return writable_file(self.output, SUFFIXES)

    def callback(self, facts: Mapping[str, Any]) -> Callable[[Any], None] | None:
        """Writes the preview, if one is wanted."""
        return None if self.preview is None else _Previews(Path(self.preview), facts)


class _Previews:
    """Writes what is being drawn to one file, now and then and whole."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path, self.facts, self.last = path, facts, 0.0

    def __call__(self, progress: Any) -> None:
        now = time.monotonic()
        if now - self.last < BETWEEN and progress.done < progress.total:
            return
        from mmfm.cli.sheet import contact_sheet

        self.last = now
        images = progress.preview()
        shown = images[0] if len(images) == 1 else contact_sheet(images, cell=max(images[0].size))
        unfinished = self.path.with_name(f".{self.path.stem}-unfinished{self.path.suffix}")
        facts = {**self.facts, "preview": f"{progress.done} of {progress.total}"}
        save_generated(shown, unfinished, facts)
        unfinished.replace(self.path)


def drawing_model(run: Run, sees: bool) -> Any:
    """What draws: a bundle's decoder opened by itself where that can be, else the model.

    sees: whether pictures will have to be read, which takes the model.
    """
    from mmfm import bundle

    folder = bundle.find(run.model)
    if sees or folder is None or run.adapter is not None or not _on_cpu(run.device):
        return run.load()
    from mmfm.cli.options import listen
    from mmfm.drawing.light import LightDrawing

    try:
        listen()
        return LightDrawing(folder, run.load)
    except ModelError:  # the model itself can do it, or says what is wrong
        return run.load()


def _on_cpu(device: str | None) -> bool:
    if device is not None:
        return device == "cpu"
    from mmfm.device import pick_device

    return pick_device(None).type == "cpu"


def facts_of(run: Run, model: Any, **facts: Any) -> dict[str, Any]:
    """What every picture says of its making."""
    from mmfm import __version__

    return {
        **facts,
        "model": run.model,
        **({} if run.adapter is None else {"adapter": run.adapter}),
        "backbone": model.backbone_hash,
        "software": f"mmfm {__version__}",
    }


def save(
    run: Run, images: list[Image.Image], target: Path, facts: dict[str, Any], *,
    strip: bool = False,
) -> None:  # fmt: skip
    """Write one picture, or several as out-0.png ... with a sheet; strip: with an animation too.

    Says where they are, on stdout, and how to draw them again, on stderr.
    """
    count = len(images)
    names = [target] if count == 1 else [beside(target, str(i)) for i in range(count)]
    for i, (image, name) in enumerate(zip(images, names)):
        save_generated(image, name, {**facts, "image": f"{i + 1} of {count}"})
    more = {}
    if count > 1:
        from mmfm.cli.sheet import contact_sheet

        sheet = beside(target, "sheet")
        columns = count if strip else None
        cell = max(128, *images[0].size)
        save_generated(contact_sheet(images, columns=columns, cell=cell), sheet, facts)
        run.say(f"all of them on {sheet}")
        more["sheet"] = str(sheet)
    if strip:
        moving = beside(target, "strip")
        if moving.suffix.lower() not in (".png", ".webp"):  # JPEG does not move
            moving = moving.with_suffix(".gif")
        save_generated(images[0], moving, facts, frames=[*images, *images[-2:0:-1]], pause=FRAME)
        run.say(f"moving in {moving}")
        more["strip"] = str(moving)
    run.say(f"seed {facts['seed']}; --seed {facts['seed']} draws the same again")
    paths = [str(name) for name in names]
    run.result({**facts, "paths": paths, **more}, "\n".join(paths))


def beside(target: Path, ending: str) -> Path:
    """out.png -> out-ENDING.png."""
    return target.with_name(f"{target.stem}-{ending}{target.suffix}")
