"""`mmfm data inspect`: what a folder of data is, and what is wrong with it."""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path
from typing import Any

import click

from mmfm.cli.data.source import source
from mmfm.cli.options import Run

MOST_CLASSES = 8


@click.command("inspect")
@source
@click.option("--limit", type=click.IntRange(1), help="Decode this many, drawn at random.  [2000]")
@click.option("--all", "look_at_all", is_flag=True, help="Decode every picture.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draw.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
def command(
    path: str,
    layout: str | None,
    images: str | None,
    limit: int | None,
    look_at_all: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Say which layout PATH holds, how much of what kind, and what would fail and why.

    PATH: a folder, a table (.csv .tsv .jsonl .json .parquet), a .tar, a pattern or URL of tars.
    """
    if limit is not None and look_at_all:
        raise click.UsageError("--limit and --all contradict each other; give one")
    from tqdm import tqdm

    from mmfm.data.layouts import open_layout
    from mmfm.data.layouts.report import LIMIT, inspect

    run = Run(model="", device=None, seed=seed, as_json=as_json)
    found = open_layout(path, kind=layout, images=images)
    most = None if look_at_all else limit or LIMIT
    total = found.count() if most is None else min(most, found.count())
    with tqdm(total=total, disable=not run.progress, unit="picture", leave=False) as bar:
        report = inspect(found, limit=most, seed=seed, tick=bar.update)
    report = {"path": path, **report}
    report["next"] = _next(report, layout, images)
    run.result(report, "\n".join(_lines(report)))


def _next(report: dict[str, Any], layout: str | None, images: str | None) -> str:
    path, bad_share = report["path"], report["bad_share"]
    if report["are_shards"] and not bad_share:
        return shlex.join(["mmfm", "data", "embed", path, "-o", _output(path, "vectors")])
    words = ["mmfm", "data", "shard", path, "-o", _output(path, "shards")]
    words += ["--layout", layout] if layout else []
    words += ["--images", images] if images else []
    if bad_share:
        words += ["--on-bad", "skip", "--max-bad", f"{_allowance(report):g}"]
    return shlex.join(words)


def _allowance(report: dict[str, Any]) -> float:
    """The bad share rounded up; of a draw, with three standard deviations more."""
    share, looked_at = report["bad_share"], report["looked_at"]
    if looked_at < report["pictures"]:
        share += 3 * math.sqrt(share * (1 - share) / looked_at)
    return min(1.0, math.ceil(100 * share + 0.01) / 100)


def _output(path: str, what: str) -> str:
    if "://" in path or any(sign in path for sign in "*?{["):
        return what
    place = Path(path).absolute()
    place = place.parent if place.is_file() else place
    beside = place.with_name(f"{place.name or 'data'}-{what}")
    return min(os.path.relpath(beside), str(beside), key=len)


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{report['path']}: {report['layout']}"]
    lines += [f"  {note}" for note in report["notes"]]
    rows = [("pictures", _pictures(report)), ("captions", _captions(report["captions"]))]
    if report["classes"]:
        rows.append(("classes", _classes(report["classes"])))
    rows.append(("formats", ", ".join(f"{k} {n:,}" for k, n in report["formats"].items())))
    rows.append(("width", f"{_spread(report['width'])} px"))
    rows.append(("height", f"{_spread(report['height'])} px"))
    rows.append(("aspect", f"{_spread(report['aspect'])} (width over height)"))
    rows.append(("file size", f"{_spread(report['file_bytes'])} bytes"))
    rows.append(("duplicates", _duplicates(report["duplicates"])))
    rows.append(("bad", f"{report['bad_share']:.2%} of all" if report["bad"] else "none found"))
    lines += [f"{name:<11} {words}" for name, words in rows]
    for cause, found in report["bad"].items():
        lines.append(f"  {cause} {found['count']:,}")
        lines += [f"    {example}" for example in found["examples"]]
    if report["are_shards"] and not report["bad"]:
        lines.append("These shards can be trained on as they are.")
    return [*lines, f"next: {report['next']}"]


def _pictures(report: dict[str, Any]) -> str:
    count, looked_at = report["pictures"], report["looked_at"]
    if looked_at == count:
        return f"{count:,}, all of them decoded: {report['usable']:,} can be used"
    return (
        f"{count:,}; {looked_at:,} drawn at random (seed {report['seed']}) and decoded:"
        f" {report['usable']:,} of these can be used; --all decodes every one"
    )


def _captions(captions: dict[str, Any]) -> str:
    if not captions["count"]:
        return "none; `mmfm caption FOLDER --write-txt` can make them"
    each, without = captions["per_picture"], captions["pictures_without"]
    words = f"{captions['count']:,}; {_spread(each)} a picture; {_spread(captions['words'])} words"
    if without:
        words += f"; {without:,} pictures have none"
    return words if captions["of_all_pictures"] else f"{words} (of those drawn)"


def _classes(classes: dict[str, int]) -> str:
    most = [f"{name} {count:,}" for name, count in list(classes.items())[:MOST_CLASSES]]
    more = f" and {len(classes) - len(most)} more" if len(classes) > len(most) else ""
    return f"{len(classes)}: {', '.join(most)}{more}"


def _spread(three: dict[str, float]) -> str:
    low, middle, high = (f"{three[name]:,}" for name in ("min", "median", "max"))
    return low if low == high else f"{low} to {high}, median {middle}"


def _duplicates(duplicates: dict[str, Any]) -> str:
    if not duplicates["copies"]:
        return "none (by content, of the pictures decoded)"
    examples = "; ".join(" = ".join(names) for names in duplicates["examples"])
    return f"{duplicates['copies']:,} pictures are copies of others: {examples}"
