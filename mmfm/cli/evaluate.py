"""`mmfm evaluate`: every figure of a model on pictures it was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmfm.cli.info import lines_of
from mmfm.cli.options import Run, shared

if TYPE_CHECKING:
    from mmfm.evaluation import Samples
    from mmfm.model import MMFM

# as mmfm.evaluation has them; not imported, so that --help stays quick
PARTS = (
    "retrieval", "zero_shot", "captioning", "reconstruction", "prompts", "reranking", "bias",
    "generation", "cycle", "scenes", "calibration", "probe", "knn",
)  # fmt: skip
HEADS = {"captioning": "captioner", "reconstruction": "pixel_decoder"}  # part -> what it needs


@click.command("evaluate")
@click.option("--data", required=True, metavar="PATH",
              help="Shards, pictures, a table: all that `mmfm data inspect` knows.")  # fmt: skip
@click.option("--parts", help=f"By comma, of {', '.join(PARTS)}.  [what the model has heads for; "
              "zero_shot with --labels-from]")  # fmt: skip
@click.option("--sets", help="Only samples of these sets, by comma.")
@click.option("--gallery", type=click.IntRange(2), default=1000, show_default=True,
              help="Pictures that retrieval searches.")  # fmt: skip
@click.option("--captions", type=click.Choice(["first", "all"]), default="first", show_default=True,
              help="Which captions of a picture retrieval asks for it by.")  # fmt: skip
@click.option("--labels-from", metavar="FIELD", help="Field of the JSON that names the class; "
              "caption: the text or folder.  [category; for class folders caption]")  # fmt: skip
@click.option("--class-names", metavar="FILE", help="A name a line, where the field is a "
              "number, as .cls is; the first is 0.")  # fmt: skip
@click.option("--templates", metavar="NAME|FILE", help="Sentences for zero-shot labels; names: "
              "label, photo, drawing, simple, imagenet.")  # fmt: skip
@click.option("--train", metavar="PATH", help="Examples for calibration, probe and knn.  [the "
              "nineteen in twenty of --data whose keys are not held out]")  # fmt: skip
@click.option("--store", metavar="FOLDER", help="Of `mmfm data embed`: vectors that are there are "
              "not computed again.")  # fmt: skip
@click.option("--prompts", "num_prompts", type=click.IntRange(1), help="generation, cycle: draw "
              "pictures for so many drawings' names.  [all that the judge knows]")  # fmt: skip
@click.option("--num-steps", "--steps", type=click.IntRange(1), help="generation, cycle: steps of "
              "the decoder.  [the model's]")  # fmt: skip
@click.option("--guidance", "guidance_scale", type=float, help="generation, cycle: guidance "
              "scale; 1 = none.  [the model's]")  # fmt: skip
@click.option("--sampler", metavar="NAME", help="generation, cycle: as in `mmfm generate`; few for "
              "the few-step mode.  [the model's]")  # fmt: skip
@click.option("--judge", metavar="FILE", help="Of `train.judge`.  [the one that ships]")
@click.option("--limit", type=click.IntRange(1), help="Use so many samples, drawn with the seed.")
@click.option("--on-bad", type=click.Choice(["raise", "skip"]), default="raise", show_default=True,
              help="What becomes of samples that cannot be used.")  # fmt: skip
@click.option("--max-bad", type=click.FloatRange(0, 1), default=0.01, show_default=True,
              help="Stop when more than this share is bad.")  # fmt: skip
@shared
def command(
    run: Run, data: str, parts: str | None, sets: str | None, labels_from: str | None,
    class_names: str | None, train: str | None, store: str | None, on_bad: str, max_bad: float,
    num_prompts: int | None, num_steps: int | None, guidance_scale: float | None,
    sampler: str | None, judge: str | None,
    **options: Any,
) -> None:  # fmt: skip
    """Measure retrieval, zero-shot and few-shot naming, captions, reconstruction and generated
    pictures, with chance beside each.

    generation: an independent judge names pictures drawn for the names of the data's drawings,
    beside those drawings. cycle: their captions against the names. scenes: two drawings of
    `data_pipelines.scenes` in one picture, and where they stand. bias: drawings of people by the
    gender word and the skin tone of their names. These take minutes; ask for them.
    """
    from mmfm.data.bad import BadSamples
    from mmfm.evaluation import Asking, Judge, evaluate, open_samples

    opened = open_samples(data)
    samples = opened if sets is None else _of_sets(opened, sets, data)
    usual = "cls" if class_names else "category"
    label = labels_from or ("caption" if opened.layout.kind == "classes" else usual)
    bad = BadSamples(on_bad, max_bad)
    model = run.load()
    figures = evaluate(
        model, samples, label=label, names=None if class_names is None else _lines(class_names),
        parts=_parts(parts, model, bool(labels_from or class_names)),
        train=None if train is None else open_samples(train), store=_store(store, model),
        asking=Asking(
            num_prompts=num_prompts, num_steps=num_steps, guidance_scale=guidance_scale,
            sampler=sampler,
        ),
        judge=None if judge is None else Judge.load(judge),
        seed=run.seed or 0, on_bad=bad, progress=run.progress, **options,
    )  # fmt: skip
    for record in bad.records:
        run.say(f"left out: {record['message']}")
    run.result(figures, "\n".join(lines_of(figures)))


def _parts(asked: str | None, model: MMFM, has_labels: bool) -> list[str]:
    if asked is not None:
        return [part.strip().replace("-", "_") for part in asked.split(",")]
    usual = ["retrieval", *(["zero_shot"] if has_labels else []), *HEADS]
    return [part for part in usual if part not in HEADS or HEADS[part] in model.parts]


def _lines(path: str) -> list[str]:
    from mmfm.errors import DataError

    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"the class names in {path} cannot be read: {error}") from error
    names = [line.strip() for line in lines]
    if "" in names or len(set(names)) < len(names) or not names:
        raise DataError(f"{path} wants one name a line, each another, and no empty line")
    return names


def _of_sets(samples: Samples, sets: str, data: str) -> Samples:
    from mmfm.errors import DataError
    from mmfm.evaluation import Chosen

    wanted = {name.strip() for name in sets.split(",")}
    known: set[str] = set()

    def keep(sample: Any) -> bool:
        known.add(str(sample.meta.get("set")))
        return sample.meta.get("set") in wanted

    chosen = Chosen(samples, keep)
    if wanted - known:
        raise DataError(
            f"{data} has no set {', '.join(sorted(wanted - known))}; it has "
            f"{', '.join(sorted(known))}"
        )
    return chosen


def _store(folder: str | None, model: MMFM) -> Any:
    if folder is None:
        return None
    from mmfm.data.store import expect_store
    from mmfm.jobs.embed import open_store

    expect_store(folder)
    return open_store(folder, model)
