"""`mmfm data shard`: any folder of data becomes indexed shards."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmfm.cli.data.source import source
from mmfm.cli.options import Run
from mmfm.cli.outputs import writable_folder
from mmfm.errors import DataError, OutputError

if TYPE_CHECKING:
    from mmfm.data.bad import BadSamples
    from mmfm.data.layouts import Layout
    from mmfm.data.sample import Sample


@click.command("shard")
@source
@click.option("-o", "--output", required=True, metavar="FOLDER", help="Where the shards go.")
@click.option(
    "--on-bad",
    type=click.Choice(("raise", "skip", "quarantine")),
    default="raise",
    show_default=True,
    help="What becomes of a sample that cannot be used; quarantine keeps its bytes.",
)
@click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Stop when a larger share than this is bad.",
)
@click.option("--samples-per-shard", type=click.IntRange(1), default=2000, show_default=True)
@click.option("--size", type=click.IntRange(1), help="Bring the shortest side down to this, px.")
@click.option("--check/--no-check", default=True, help="Decode every picture first.  [check]")
@click.option("--workers", type=click.IntRange(1), help="Threads.  [one for each processor]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
def command(
    path: str,
    layout: str | None,
    images: str | None,
    output: str,
    on_bad: str,
    max_bad: float,
    samples_per_shard: int,
    size: int | None,
    check: bool,
    workers: int | None,
    as_json: bool,
) -> None:
    """Write the pictures and captions of PATH as indexed webdataset shards.

    PATH: what `mmfm data inspect` understands. FOLDER appears when all is written, or not at all.
    Beside it: FOLDER.manifest.json, and FOLDER.bad.jsonl when samples were left out.
    """
    target = _expect_output(path, output)
    from tqdm import tqdm

    from mmfm.data.bad import BadSamples
    from mmfm.data.dataset import ShardDataset
    from mmfm.data.layouts import open_layout
    from mmfm.data.shards import write_shards

    run = Run(model="", device=None, seed=None, as_json=as_json)
    found = open_layout(path, kind=layout, images=images)
    total = found.count()
    folder = _beside(target, ".quarantine") if on_bad == "quarantine" else None
    bad = BadSamples(on_bad, max_fraction=max_bad, folder=folder)
    with tqdm(total=total, disable=not run.progress, unit="picture", leave=False) as bar:
        threads = workers or min(16, os.cpu_count() or 1)
        given = found.samples(bad, check=check, size=size, workers=threads)
        samples = _accounted(given, found, bad, bar.update)
        count = write_shards(samples, target, max_count=samples_per_shard)
    dataset = ShardDataset.open(target)  # makes the indexes
    report = {
        "source": path,
        "kind": found.kind,
        "layout": found.name,
        "output": str(target),
        "samples": count,
        "shards": len(dataset.shards),
        "fingerprint": dataset.fingerprint(),
        "converted": {kind: number for kind, number in found.converted.items() if number},
        "bad": dict(bad.counts),
    }
    settings = {"checked": check, "size": size, "on_bad": on_bad, "max_bad": max_bad}
    _write_beside(target, bad, {**report, **settings, "notes": found.notes})
    for note in found.notes:
        run.say(note)
    run.result(report, "\n".join(_lines(report, target)))


def _accounted(
    samples: Iterator[Sample], layout: Layout, bad: BadSamples, tick: Callable[[], Any]
) -> Iterator[Sample]:
    """The samples, and after the last one the account: nothing is put in place if it is bad."""
    from mmfm.data.bad import SampleError

    count = 0
    try:
        for sample in samples:
            count += 1
            tick()
            yield sample
        bad.check()
    except SampleError as error:
        raise DataError(f"{error} (or leave such samples out: --on-bad skip)") from error
    except DataError as error:
        raise DataError(f"{error} (--max-bad)" if bad.num_lost else str(error)) from error
    if not count:
        causes = ", ".join(f"{cause} {number}" for cause, number in bad.counts.items())
        raise DataError(f"no picture of {layout.root} can be used: {causes or 'there is none'}")


def _expect_output(path: str, output: str) -> Path:
    """The output folder, if shards can go there; asked before the work."""
    target = Path(output)
    source, place = Path(path).absolute(), target.absolute()
    if source.is_dir() and place.is_relative_to(source):
        raise OutputError(f"{output} lies inside {path}, the data; give a folder outside of it")
    if target.is_file():
        raise OutputError(f"{output} is a file; name a folder for the shards")
    writable_folder(place.parent)
    return target


def _beside(target: Path, suffix: str) -> Path:
    target = target.absolute()
    return target.with_name(target.name + suffix)


def _write_beside(target: Path, bad: BadSamples, manifest: dict[str, Any]) -> None:
    from mmfm import __version__

    listed = _beside(target, ".bad.jsonl")
    if bad.records:
        bad.write(listed)
    else:
        listed.unlink(missing_ok=True)  # of an earlier run into the same folder
    path = _beside(target, ".manifest.json")
    unfinished = path.with_name(f".{path.name}.unfinished")
    text = json.dumps({"mmfm": __version__, **manifest}, ensure_ascii=False, indent=2) + "\n"
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _lines(report: dict[str, Any], target: Path) -> list[str]:
    lines = [f"{target}: {report['samples']:,} samples, shards: {report['shards']:,}"]
    if report["converted"]:
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in report["converted"].items())
        lines.append(f"encoded anew: {kinds}")
    if report["bad"]:
        causes = ", ".join(f"{cause} {number:,}" for cause, number in report["bad"].items())
        lines.append(f"left out: {causes}; listed in {target}.bad.jsonl")
    return lines
