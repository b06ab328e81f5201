"""`mmfm search`: pictures by text, by picture, or by a mix, from an index or a plain folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmfm.cli.options import Run, shared
from mmfm.errors import TextError

if TYPE_CHECKING:
    from mmfm.index import Index


@click.command("search")
@click.argument("index")
@click.argument("text", required=False)
@click.option("--image", help="Search with this picture; with a text, with both.")
@click.option("--minus", multiple=True, help="Stay away from this text; may be repeated.")
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="How many to find.")
@shared
def command(
    run: Run, index: str, text: str | None, image: str | None, minus: tuple[str, ...], k: int
) -> None:
    """Find pictures by text, by picture, or by both.

    INDEX is what `mmfm index` made, or a folder of pictures, which is then indexed for this search.
    """
    if text is None and image is None:
        raise click.UsageError("nothing to search for: give a text or --image")
    if not all(words.strip() for words in (*minus, *([text] if text is not None else []))):
        raise TextError("a text to search for is empty; say what the picture shows")

    from mmfm.preprocess.images import load_image

    picture = None if image is None else load_image(image)
    found = _open(run, index).search(text, k, image=picture, minus=list(minus))
    hits = [{"path": hit.path, "score": round(hit.score, 6)} for hit in found]
    run.result(hits, "\n".join(f"{hit['score']:.4f}\t{hit['path']}" for hit in hits))


def _open(run: Run, place: str) -> Index:
    from mmfm.index import Index, store
    from mmfm.preprocess.folder import list_images

    if Path(place).is_dir() and not store.exists(Path(place)):
        count = len(list_images(place))
        run.say(f"'{place}' is not an index: indexing its {count} pictures for this search only")
        index = Index.build(run.load(), place, progress=run.progress)
        for path, reason in index.report["skipped"]:
            run.say(f"skipped {path}: {reason}")
        return index
    Index.open(place)  # why: a wrong index is told before a model is loaded
    return Index.open(place, run.load())
