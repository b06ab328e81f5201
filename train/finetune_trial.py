"""Does `mmfm finetune` learn what was never seen, and forget nothing? Measured on the drawings.

    python -m data_pipelines.drawings -o data/drawings
    python -m train.finetune_trial --data data/drawings -o runs/finetune-trial

The split `unseen` holds concepts that are in no training set. Three quarters of it become a folder
of pictures, which `mmfm.finetune` gets with its default settings and nothing else; the last quarter
(by content) and the split `test`, without the drawings in the package, are touched by nobody.

The goal is half of the way to what a model would reach that had this folder in its training. As a
proxy of that, the shipped model on `test`, whose concepts it saw, in other families: recall in
galleries of the same size, drawn eight times, and F1 of all captions. No training on the folder
teaches a concept that is not in it, so beside the whole exam (`exam`) stands the part of it whose
concepts the folder has (`exam_met`), with a gallery of its own size. The last line is JSON.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

import mmfm
from mmfm.cli import gallery
from mmfm.data.keyed import content_key
from mmfm.data.sample import Sample
from mmfm.data.shards import read_shards
from mmfm.errors import InputError
from mmfm.evaluation import evaluate
from mmfm.evaluation.words import token_f1
from mmfm.model import MMFM

_EXAM = 4  # one picture in so many is for the exam
_DRAWS = 8  # galleries of the proxy
RECALL, F1 = "recall@1", "caption_f1"


def parts_of(data: Path, count: int | None) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """(to learn from, exam, test), the last without the drawings of the package."""
    unseen = sorted(read_shards(data / "unseen"), key=lambda s: content_key(s.image))
    exam, learned = unseen[::_EXAM], [s for i, s in enumerate(unseen) if i % _EXAM]
    lines = (gallery.FOLDER / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    shipped = {json.loads(line)["key"] for line in lines}
    test = [s for s in read_shards(data / "test") if s.meta["key"] not in shipped]
    return learned[:count], exam, test


def write_folder(samples: Sequence[Sample], folder: Path) -> None:
    """Pictures and a captions.jsonl with the name of each, as a person might have them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = []
    for number, sample in enumerate(samples):
        (folder / f"{number:04d}.png").write_bytes(sample.image)
        lines.append(json.dumps({"file_name": f"{number:04d}.png", "text": sample.captions[0]}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def recall(model: MMFM, samples: Sequence[Sample]) -> dict[str, float]:
    """recall@1 among these samples, both ways and their mean."""
    found = evaluate(model, samples, parts=("retrieval",))["retrieval"]
    both = {way: found[f"{way}_{RECALL}"] for way in ("text_to_image", "image_to_text")}
    return {RECALL: float(np.mean(list(both.values()))), **both, "gallery": found["gallery"]}


def figures(model: MMFM, samples: Sequence[Sample]) -> dict[str, float]:
    """The same, and token F1 of captions against the name."""
    said = model.caption([sample.image for sample in samples])
    right = [token_f1(text, [sample.captions[0]]) for text, sample in zip(said, samples)]
    return {**recall(model, samples), F1: float(np.mean(right))}


def proxy(model: MMFM, test: Sequence[Sample], size: int) -> float:
    """recall@1 of seen concepts in galleries of `size`: the mean of eight draws."""
    draws = [recall(model, random.Random(seed).sample(list(test), size)) for seed in range(_DRAWS)]
    return float(np.mean([one[RECALL] for one in draws]))


def share(before: float, after: float, goal: float) -> float | None:
    """How much of the way from `before` to `goal` was made."""
    return None if goal <= before else (after - before) / (goal - before)


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("data/drawings"))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("runs/trial"))
@click.option("--count", type=int, help="Learn from so many pictures.  [all 781]")
@click.argument("settings", nargs=-1)
def main(data: Path, output: Path, count: int | None, settings: tuple[str, ...]) -> None:
    """Fine-tune mini on unseen concepts; SETTINGS are key=value, as `mmfm.finetune` names them."""
    learned, exam, test = parts_of(data, count)
    write_folder(learned, output / "pictures")
    base = mmfm.load("mini", device="cpu")
    told: dict[str, Any] = {"pictures": len(learned), "exam": len(exam), "test": len(test)}
    concepts = {sample.meta["concept"] for sample in learned}
    exams = {"exam": exam, "exam_met": [s for s in exam if s.meta["concept"] in concepts]}
    sets = {**exams, "test": test}
    before = {name: figures(base, some) for name, some in sets.items()}
    told["proxy"] = {name: {RECALL: proxy(base, test, len(some)), F1: before["test"][F1]}
                     for name, some in exams.items()}  # fmt: skip
    start = time.monotonic()
    try:
        report = mmfm.finetune(
            "mini", images=output / "pictures", output=output / "model",
            say=lambda line: click.echo(line, err=True), **typed(settings),
        )  # fmt: skip
    except InputError as error:
        click.echo(f"train.finetune_trial: error: {error}", err=True)
        raise SystemExit(2) from None
    told["minutes"] = round((time.monotonic() - start) / 60, 2)
    told["mix"] = report.told.get("mix", {}).get("share")
    tuned = mmfm.load(output / "model", device="cpu")
    after = {name: figures(tuned, some) for name, some in sets.items()}
    told |= {name: {"before": before[name], "after": after[name]} for name in sets}
    told["share_of_gap"] = {
        name: {key: share(before[name][key], after[name][key], goal[key]) for key in (RECALL, F1)}
        for name, goal in told["proxy"].items()
    }
    told["test_lost_points"] = {
        key: 100 * (before["test"][key] - after["test"][key]) for key in (RECALL, F1)
    }
    print(json.dumps(told))


def typed(settings: tuple[str, ...]) -> dict[str, Any]:
    """`("steps=20", "train=all")` as keyword arguments. Raises UsageError."""
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise click.UsageError(f"got {setting!r}, wanted key=value")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = tuple(value.split(",")) if key == "heads" else value
    return found


if __name__ == "__main__":
    main()
