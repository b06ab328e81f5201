"""Compose scenes of two or three drawings from the shards of `data_pipelines.drawings`.

    python -m data_pipelines.scenes data/drawings -o data/scenes

Writes `OUT/{train,test}/*.tar`: "a red apple left of a dog" on a coloured ground. Training scenes
are made of drawings of the training split alone, test scenes of the test split. The same shards and
options give the same bytes.
"""

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data_pipelines.sources.iconify import EMOJI_STYLES
from mmfm.data import Sample, write_shards
from mmfm.data.scenes import PAIRS, TRIPLES, Scene, compose
from mmfm.data.shards import read_shards
from mmfm.errors import DataError, InputError

# what can stand beside something else; no flags, no signs
CATEGORIES = (
    "animals and nature", "food and drink", "objects", "travel and places", "activities",
    "smileys and emotion", "people and body",
)  # fmt: skip
# sides and times are told by these names, which a scene would contradict or not show
_LEFT_OUT = frozenset(("left", "right", "above", "below", "leftwards", "rightwards", "o'clock"))
MOST_WORDS = 3  # of a name
SPLITS = {"train": 60_000, "test": 400}
TRIPLE_SHARE = 0.15  # of the training scenes; test scenes are pairs


def usable(sample: Sample) -> bool:
    """Whether a drawing can be part of a scene: an untoned emoji of a thing, with a short name."""
    meta = sample.meta
    words = meta["name"].split()
    return (
        meta["set"] in EMOJI_STYLES
        and not meta["skin_tone"]
        and meta["category"] in CATEGORIES
        and len(words) <= MOST_WORDS
        and not _LEFT_OUT & set(words)
    )


def scenes(samples: list[Sample], count: int, seed: int, triples: float) -> Iterator[Scene]:
    """`count` scenes of different names, each name drawn alike often."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.meta["name"], []).append(sample)
    names = sorted(by_name)
    if len(names) < 3:
        raise DataError(f"scenes need drawings of 3 names or more, got {len(names)}")
    chance = np.random.default_rng(seed)
    for _ in range(count):
        three = chance.random() < triples
        chosen = [names[i] for i in chance.choice(len(names), 3 if three else 2, replace=False)]
        relation = str(chance.choice(list(TRIPLES if three else PAIRS)))
        drawings = [
            by_name[name][int(chance.integers(len(by_name[name])))].image for name in chosen
        ]
        pixels = [np.asarray(Image.open(io.BytesIO(one)).convert("RGBA")) for one in drawings]
        yield compose(pixels, chosen, relation, chance)


def to_sample(scene: Scene, key: str) -> Sample:
    """The record that goes into a shard."""
    picture = io.BytesIO()
    Image.fromarray(scene.rgb).save(picture, "PNG")
    meta = {
        "name": scene.captions[0], "set": "scenes", "style": None, "category": "scenes",
        "keywords": [], "skin_tone": None, **scene.meta(),
    }  # fmt: skip
    return Sample(key=key, image=picture.getvalue(), captions=scene.captions, meta=meta)


def build(drawings: Path, out: Path, counts: dict[str, int], seed: int = 0) -> dict[str, int]:
    """Write the scenes and `OUT/manifest.json`; the number of scenes per split.

    Raises DataError when the drawings are missing or too few.
    """
    for place, (split, count) in enumerate(counts.items()):
        samples = [sample for sample in read_shards(drawings / split) if usable(sample)]
        made = scenes(samples, count, 2 * seed + place, TRIPLE_SHARE if split == "train" else 0.0)
        numbered = (to_sample(scene, f"{i:09d}") for i, scene in enumerate(made))
        write_shards(tqdm(numbered, total=count, desc=split, unit="scene"), out / split)
    facts = {
        "program": "data_pipelines.scenes", "drawings": drawings.name, "scenes": counts,
        "seed": seed,
    }  # fmt: skip
    (out / "manifest.json").write_text(json.dumps(facts, indent=2) + "\n")
    return counts


def main(argv: list[str] | None = None) -> int:
    """The command; 0, or 2 with one line on stderr when something is wrong with the input."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.scenes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("drawings", type=Path, help="what data_pipelines.drawings wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the shards")
    for split, count in SPLITS.items():
        parser.add_argument(f"--{split}", type=int, default=count, help="scenes [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    args = parser.parse_args(argv)
    try:
        counts = build(
            args.drawings, args.output, {"train": args.train, "test": args.test}, args.seed
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{sum(counts.values())} scenes in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
