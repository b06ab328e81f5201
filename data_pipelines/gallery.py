"""Choose a small gallery of drawings that were never trained on, as plain picture files.

    python -m data_pipelines.gallery --data data/drawings -o mmfm/gallery

Takes only the test split: distinct concepts, no skin-tone variants, mostly emoji. Writes PNG files
on white with readable names, `captions.jsonl` and `ATTRIBUTION.md`. The same shards give the same
gallery.
"""

import argparse
import hashlib
import io
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from data_pipelines.drawing import SetReport
from data_pipelines.manifest import write_attribution
from data_pipelines.render import on_white
from mmfm.data import Sample, read_shards
from mmfm.errors import DataError, InputError, OutputError

QUOTAS = {
    "noto": 48,
    "twemoji": 44,
    "fluent-emoji": 44,
    "fluent-emoji-flat": 32,
    "emojione": 20,
    "streamline-emojis": 8,
    "noto-v1": 4,
    "openclipart": 14,
    "streamline-ultimate-color": 8,
    "streamline-freehand-color": 5,
    "icon-park": 4,
    "flat-color-icons": 4,
    "streamline-kameleon-color": 3,
    "fluent-color": 2,
}  # 240 in all
CATEGORY_CAPS = {"flags": 8, "symbols": 14, "people and body": 30}
MAX_WORDS = 4
MIN_SHARE = 0.3  # of the square, covered by the box around the drawing
BRANDS = ("adobe", "bitcoin", "google", "microsoft", "paypal")
KEPT_FILES = ("captions.jsonl", "ATTRIBUTION.md")


def choose(samples: Iterable[Sample], quotas: dict[str, int]) -> list[Sample]:
    """Samples for a gallery, set after set, in an order that depends only on their keys."""
    order = sorted(
        (sample for sample in samples if sample.meta["skin_tone"] is None),
        key=lambda sample: hashlib.sha256(sample.meta["key"].encode()).hexdigest(),
    )
    chosen: list[Sample] = []
    concepts: set[str] = set()
    categories: Counter = Counter()
    for name, quota in quotas.items():
        left = quota
        for sample in order:
            concept, category = sample.meta["concept"], sample.meta["category"]
            if not left:
                break
            if (
                sample.meta["set"] != name
                or concept in concepts
                or len(concept.split()) > MAX_WORDS
            ):
                continue
            if set(concept.split()) & set(BRANDS) or not _fills(sample):
                continue
            if categories[category] >= CATEGORY_CAPS.get(category, sum(quotas.values())):
                continue
            concepts.add(concept)
            categories[category] += 1
            chosen.append(sample)
            left -= 1
    return chosen


def _fills(sample: Sample) -> bool:
    with Image.open(io.BytesIO(sample.image)) as image:
        left, top, right, bottom = image.convert("RGBA").getchannel("A").getbbox()
        return (right - left) * (bottom - top) >= MIN_SHARE * image.width * image.height


def write_gallery(samples: list[Sample], sets: dict[str, dict], folder: Path) -> None:
    """PNG files on white, `captions.jsonl` and `ATTRIBUTION.md`, in place of an older gallery.

    sets: the `sets` of the shards' manifest. Raises OutputError when `folder` holds other files.
    """
    if folder.exists():
        strange = [p for p in folder.iterdir() if p.suffix != ".png" and p.name not in KEPT_FILES]
        if strange:
            raise OutputError(f"{folder} holds {strange[0].name}; choose an empty folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    lines = []
    for sample in samples:
        meta = sample.meta
        name = (
            re.sub(r"[^a-z0-9]+", "-", f"{meta['set']}-{meta['name']}".lower()).strip("-") + ".png"
        )
        with Image.open(io.BytesIO(sample.image)) as image:
            on_white(image.convert("RGBA")).save(folder / name, optimize=True)
        fields = {key: meta[key] for key in ("key", "set", "license", "author")}
        lines.append(json.dumps({"file_name": name, "text": sample.captions[0], **fields}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    counts = Counter(sample.meta["set"] for sample in samples)
    reports = {
        name: SetReport(sets[name]["license"], sets[name]["author"], sets[name]["url"])
        for name in counts
    }
    size = Image.open(io.BytesIO(samples[0].image)).width
    write_attribution(folder, reports, counts, f"rasterised to {size} px, put on white")


def main(argv: list[str] | None = None) -> int:
    """The command; 0, or 2 with one line on stderr when something is wrong with the input."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.gallery",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="output of data_pipelines.drawings"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the gallery")
    args = parser.parse_args(argv)
    try:
        chosen = choose(read_shards(args.data / "test"), QUOTAS)
        if not chosen:
            raise DataError(f"{args.data} has no drawing for a gallery; build all sets first")
        manifest = json.loads((args.data / "manifest.json").read_text(encoding="utf-8"))
        write_gallery(chosen, manifest["sets"], args.output)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"{len(chosen)} drawings in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
