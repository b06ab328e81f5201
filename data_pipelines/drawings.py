"""Build image-text shards of permissively licensed drawings.

    python -m data_pipelines.drawings -o data/drawings

Fetches npm `@iconify/json` and `emojibase-data` and Debian `openclipart-png` and `openclipart-svg`
through npm and apt-get, renders, captions, de-duplicates and splits them, and writes
`OUT/{train,test,unseen}/*.tar`, `OUT/manifest.json` and `OUT/ATTRIBUTION.md`. The same versions and
options give the same bytes. About 2 minutes on 2 CPU cores once the archives are there.
"""

import argparse
import random
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from data_pipelines.captions import make_captions
from data_pipelines.drawing import Drawing, SetReport, split_of
from data_pipelines.duplicates import Duplicates
from data_pipelines.manifest import write_attribution, write_manifest
from data_pipelines.render import Picture, render_all
from data_pipelines.sources.emojibase import read_emoji_texts
from data_pipelines.sources.iconify import (
    CODE_SETS,
    EMOJI_STYLES,
    FLAG_STYLES,
    ICON_STYLES,
    icon_words,
    iconify_drawings,
    read_sets,
)
from data_pipelines.sources.openclipart import openclipart_drawings
from data_pipelines.sources.packages import NPM, sha256_of
from mmfm.data import Sample, write_shards
from mmfm.errors import DataError, InputError, OutputError

PROGRAM_VERSION = 1  # raise when the same sources would give other shards
SPLITS = ("train", "test", "unseen")
GROUPS = {
    "emoji": tuple(EMOJI_STYLES),
    "pictorial": (*EMOJI_STYLES, *ICON_STYLES),
    "flags": tuple(FLAG_STYLES),
    "openclipart": ("openclipart",),
    "all": (*EMOJI_STYLES, *ICON_STYLES, *FLAG_STYLES, "openclipart"),
}
DEFAULT_SETS = "pictorial,openclipart"


def choose_sets(text: str) -> list[str]:
    """Set names of a comma-separated choice of sets and groups, each once, in a fixed order."""
    chosen = set()
    for word in filter(None, (word.strip() for word in text.split(","))):
        if word not in GROUPS and word not in GROUPS["all"]:
            known = ", ".join([*GROUPS, *GROUPS["all"]])
            raise DataError(f"there is no set or group {word!r}; choose from: {known}")
        chosen.update(GROUPS.get(word, (word,)))
    if not chosen:
        raise DataError("no sets were chosen; name some with --sets, such as --sets emoji")
    return [name for name in GROUPS["all"] if name in chosen]


def collect(names: list[str], cache: Path) -> tuple[list[Drawing], dict[str, SetReport]]:
    """Drawings of all chosen sets, set after set, and a report of each."""
    texts = read_emoji_texts(cache)
    prefixes = [name for name in names if name != "openclipart"]
    sets = read_sets([*prefixes, *(GROUPS["pictorial"] if "openclipart" in names else ())], cache)
    for prefix in (*CODE_SETS, *prefixes):
        if prefix in sets:
            data = sets[prefix]
            aliases = {name: alias["parent"] for name, alias in data.get("aliases", {}).items()}
            texts.learn(data.get("chars") or {}, aliases if prefix in CODE_SETS else {})
    drawings: list[Drawing] = []
    reports: dict[str, SetReport] = {}
    for name in names:
        if name == "openclipart":
            vocabulary = texts.vocabulary() | icon_words(sets, GROUPS["pictorial"])
            found, reports[name] = openclipart_drawings(cache, vocabulary)
        else:
            found, reports[name] = iconify_drawings(name, sets, texts)
        drawings.extend(found)
    return drawings, reports


def to_sample(drawing: Drawing, picture: Picture, key: str) -> Sample:
    """The record that goes into a shard."""
    captions = make_captions(drawing.name, drawing.style, drawing.category, drawing.keywords)
    meta = {
        "key": drawing.key,
        "name": drawing.name,
        "concept": drawing.concept,
        "set": drawing.set,
        "style": drawing.style,
        "category": drawing.category,
        "keywords": list(drawing.keywords),
        "source": drawing.source,
        "license": drawing.license,
        "author": drawing.author,
        "skin_tone": drawing.skin_tone,
    }
    return Sample(key=key, image=picture.png, captions=tuple(captions), meta=meta)


def keep(
    drawings: list[Drawing], reports: dict[str, SetReport], size: int, workers: int
) -> list[tuple[Drawing, Picture]]:
    """Render the drawings and drop what shows nothing or is there already."""
    duplicates = Duplicates()
    kept = []
    rendered = render_all(drawings, size, workers)
    for drawing, picture in tqdm(rendered, total=len(drawings), desc="rendering", unit="picture"):
        report = reports[drawing.set]
        rule = "blank or unreadable" if picture is None else duplicates.rule(drawing, picture)
        if rule:
            report.drop(rule)
        else:
            report.kept += 1
            kept.append((drawing, picture))
    return kept


def build(
    out: Path,
    cache: Path,
    *,
    sets: str = DEFAULT_SETS,
    size: int = 64,
    limit: int | None = None,
    workers: int = 2,
) -> dict[str, int]:
    """Build the corpus in `out` and return the number of samples per split.

    sets: comma-separated sets and groups; size: pixels a side; limit: at most so many drawings,
    chosen at random with a fixed seed before rendering.
    """
    if size < 8:
        raise DataError(f"--size {size} is too small; use at least 8 pixels")
    names = choose_sets(sets)
    _make_folders(out, cache)
    drawings, reports = collect(names, cache)
    if limit is not None and limit < len(drawings):
        chosen = sorted(random.Random(0).sample(range(len(drawings)), limit))
        rest = Counter(drawing.set for drawing in drawings)
        drawings = [drawings[index] for index in chosen]
        rest.subtract(drawing.set for drawing in drawings)
        for name, count in rest.items():
            reports[name].drop("over --limit", count)
    kept = keep(drawings, reports, size, workers)
    random.Random(0).shuffle(kept)  # so that every shard holds something of every set
    parts: dict[str, list[tuple[Drawing, Picture]]] = {split: [] for split in SPLITS}
    for drawing, picture in kept:
        parts[split_of(drawing.key, drawing.concept)].append((drawing, picture))
    for split, part in parts.items():
        samples = (to_sample(*pair, f"{index:09d}") for index, pair in enumerate(part))
        write_shards(tqdm(samples, total=len(part), desc=split, unit="sample"), out / split)
    counts = {split: len(part) for split, part in parts.items()}
    archives = {
        path.name: sha256_of(path) for path in sorted(cache.iterdir()) if _is_used(path, names)
    }
    facts = {
        "program": "data_pipelines.drawings",
        "program_version": PROGRAM_VERSION,
        "sources": {name: version for name, (version, _) in NPM.items()},
        "archives_sha256": archives,
        "size": size,
        "limit": limit,
        "samples": counts,
    }
    write_manifest(out, facts, reports)
    changes = f"rasterised to {size} px, one PNG per drawing, names cleaned"
    write_attribution(
        out, reports, {name: report.kept for name, report in reports.items()}, changes
    )
    return counts


def _make_folders(out: Path, cache: Path) -> None:
    for folder in (out, cache):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from None


def _is_used(path: Path, names: list[str]) -> bool:
    if path.suffix == ".deb":
        return "openclipart" in names and path.name.startswith("openclipart-")
    return path.name in [pattern.format(version) for version, pattern in NPM.values()]


def main(argv: list[str] | None = None) -> int:
    """The command; 0, or 2 with one line on stderr when something is wrong with the input."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.drawings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the shards")
    parser.add_argument(
        "--sets",
        default=DEFAULT_SETS,
        help=f"sets or groups ({', '.join(GROUPS)}), by comma [%(default)s]",
    )
    parser.add_argument("--size", type=int, default=64, help="pixels a side [%(default)s]")
    parser.add_argument("--limit", type=int, help="at most so many drawings, chosen at random")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("data/cache"),
        help="folder for the fetched archives [%(default)s]",
    )
    parser.add_argument("--workers", type=int, default=2, help="render processes [%(default)s]")
    args = parser.parse_args(argv)
    try:
        counts = build(
            args.output,
            args.cache,
            sets=args.sets,
            size=args.size,
            limit=args.limit,
            workers=args.workers,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    parts = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"{sum(counts.values())} drawings in {args.output}: {parts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
