"""New concepts from a few pictures and a name: does search find them, the caption head say them,
the decoder draw them?

    python -m data_pipelines.drawings -o data/drawings
    python -m train.new_concepts --data data/drawings -o runs/new-concepts

Five concepts of the split `unseen`, which no training set has, get names that nobody has read
("zorb"). A few drawings of each become a folder with a sub-folder a name; `mmfm.finetune` gets it
with its default settings; the other drawings of the five are the exam. The judge's last layer tells
which of the five a generated picture is nearest to, by the mean of the exam's drawings. Whether
anything was forgotten is measured on the drawings in the package. The last line printed is JSON.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

import mmfm
from mmfm.data.sample import Sample
from mmfm.data.shards import read_shards
from mmfm.evaluation.judge import Judge
from mmfm.model import MMFM
from train.finetune_trial import typed

NAMES = ("zorb", "blicket", "wug", "dax", "fep")  # of word learning studies; no drawing has them
_DRAWN = 8  # pictures of each concept


def concepts_of(data: Path, examples: int) -> dict[str, tuple[list[Sample], list[Sample]]]:
    """Made-up name -> (drawings to learn from, exam), of the concepts with the most drawings."""
    found: dict[str, list[Sample]] = {}
    for sample in sorted(read_shards(data / "unseen"), key=lambda s: s.meta["key"]):
        if not sample.meta["skin_tone"] and sample.meta["category"] != "flags":
            found.setdefault(sample.meta["concept"], []).append(sample)
    most = sorted(found.values(), key=lambda some: (-len(some), some[0].meta["concept"]))
    chosen = {}
    for name, some in zip(NAMES, most, strict=False):
        np.random.default_rng(0).shuffle(some)  # type: ignore[arg-type]
        chosen[name] = (some[:examples], some[examples:])
    return chosen


def write_folder(chosen: dict[str, tuple[list[Sample], list[Sample]]], folder: Path) -> None:
    """A sub-folder for each name, as a person would have them."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, (learned, _) in chosen.items():
        (folder / name).mkdir(parents=True)
        for number, sample in enumerate(learned):
            (folder / name / f"{number}.png").write_bytes(sample.image)


def figures(model: MMFM, exam: Sequence[Sample], names: Sequence[str], judge: Judge) -> dict:
    """Shares of the exam that are named, found and said right, and of generated ones drawn right.

    named: by words, among the five and all names the judge knows; found: searched by its name among
    the exam and the drawings in the package, a drawing of the concept comes first; said: the
    caption has the word.
    """
    pictures, labels = [sample.image for sample in exam], np.array(names)
    words = [*NAMES, *judge.classes]
    vectors, texts = model.embed_images(pictures), model.embed_texts(words)
    named = [words[i] for i in (vectors @ texts.T).argmax(axis=1)]
    from mmfm.cli import gallery

    searched = np.concatenate([vectors, model.embed_images(gallery.FOLDER)])
    first = (texts[: len(NAMES)] @ searched.T).argmax(axis=1)
    found = [bool(i < len(labels) and labels[i] == name) for name, i in zip(NAMES, first)]
    said = [name in text.split() for name, text in zip(labels, model.caption(pictures))]
    features = judge.look(pictures).features
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    means = np.stack([features[labels == name].mean(axis=0) for name in NAMES])
    drawn = [image for name in NAMES for image in model.generate(name, num_images=_DRAWN, seed=0)]
    nearest = (judge.look(drawn).features @ means.T).argmax(axis=1)
    own = (features @ means.T).argmax(axis=1)
    return {
        "named": float(np.mean(np.array(named) == labels)),
        "found_first": float(np.mean(found)),
        "said": float(np.mean(said)),
        "drawn": float(np.mean(nearest == np.arange(len(NAMES)).repeat(_DRAWN))),
        "drawn_ceiling": float(np.mean(own == [NAMES.index(name) for name in labels])),
        "drawn_chance": 1 / len(NAMES),
    }


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("data/drawings"))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("runs/new-concepts"))
@click.option("--examples", type=click.IntRange(2, 20), default=6, show_default=True,
              help="Drawings of each concept to learn from.")  # fmt: skip
@click.argument("settings", nargs=-1)
def main(data: Path, output: Path, examples: int, settings: tuple[str, ...]) -> None:
    """Teach mini five made-up words; SETTINGS are key=value, as `mmfm.finetune` names them."""
    chosen = concepts_of(data, examples)
    write_folder(chosen, output / "pictures")
    exam = [(sample, name) for name, (_, rest) in chosen.items() for sample in rest]
    samples, names = [sample for sample, _ in exam], [name for _, name in exam]
    judge = Judge.load()
    base = mmfm.load("mini", device="cpu")
    told: dict[str, Any] = {
        "examples": {name: len(learned) for name, (learned, _) in chosen.items()},
        "concepts": {name: learned[0].meta["concept"] for name, (learned, _) in chosen.items()},
        "exam": len(exam), "before": figures(base, samples, names, judge),
    }  # fmt: skip
    report = mmfm.finetune(
        "mini", images=output / "pictures", output=output / "model",
        say=lambda line: click.echo(line, err=True), **typed(settings),
    )  # fmt: skip
    tuned = mmfm.load(output / "model", device="cpu")
    told["after"] = figures(tuned, samples, names, judge)
    told["original"] = report.figures.get("original")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
