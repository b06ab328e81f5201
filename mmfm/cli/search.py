"""`mmfm search`: pictures by text, picture, vector, or a mix, from an index or a plain folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmfm.cli.options import Run, given, shared
from mmfm.errors import DataError, ModelError, TextError

if TYPE_CHECKING:
    import numpy as np

    from mmfm.index import Index


@click.command("search")
@click.argument("index")
@click.argument("text", required=False)
@click.option("--image", help="Search with this picture; with a text, with both.")
@click.option("--vector", help="Search with the vector in this .npy file, alone or beside others.")
@click.option("--minus", multiple=True, help="Stay away from this text; may be repeated.")
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="How many to find.")
@click.option(
    "--where", multiple=True, help="Only pictures of which this holds, such as width>=300 or "
    "folder=cats; may be repeated.",
)  # fmt: skip
@click.option(
    "--dedupe", type=float, help="Drop hits whose cosine to a better one is this or more: 0.95."
)
@click.option("--rerank", type=click.IntRange(1), help="Order so many hits by caption score.")
@click.option("--exact", is_flag=True, help="Compare every row, also in a large index.")
@click.option("--engine", help="Where the rows are, when `mmfm index` was told so.")
@shared
def command(
    run: Run, index: str, text: str | None, image: str | None, vector: str | None,
    minus: tuple[str, ...], k: int, where: tuple[str, ...], dedupe: float | None,
    rerank: int | None, exact: bool, engine: str | None,
) -> None:  # fmt: skip
    """Find pictures by text, picture, vector, or a mix of them.

    INDEX is what `mmfm index` made, or a folder of pictures, which is then indexed for this search.
    """
    if text is None and image is None and vector is None:
        raise click.UsageError("nothing to search for: give a text, --image or --vector")
    if not all(words.strip() for words in (*minus, *([text] if text is not None else []))):
        raise TextError("a text to search for is empty; say what the picture shows")
    query = [*([] if text is None else [text]), *([] if vector is None else [_read_vector(vector)])]
    found = _open(run, index, engine, image)
    needs = found.needs(query, image, list(minus))
    if "pictures" in needs:
        _check_picture(image)
    if found.model is None and (needs or rerank is not None):
        found.model = _query_model(run, found, needs if rerank is None else {"captions", *needs})
    options = given(where=list(where) or None, dedupe=dedupe, rerank=rerank)
    hits = [
        given(path=hit.path, score=hit.score, caption_score=hit.caption_score)
        for hit in found.search(query, k, image=image, minus=list(minus), exact=exact, **options)
    ]
    run.result(hits, "\n".join(f"{hit['score']:.4f}\t{hit['path']}" for hit in hits))


def _query_model(run: Run, index: Index, needs: set[str]) -> Any:
    """What embeds the query. needs: of "texts", "pictures" and "captions" (scores of captions).

    Raises ModelError when it is not the model that made the index.
    """
    light = _light_texts(run, index) if needs == {"texts"} else None
    return index.fitting(run.load()) if light is None else light


def _light_texts(run: Run, index: Index) -> Any:
    """What embeds words without torch; None where that cannot be, or is not the index's model."""
    from mmfm import bundle
    from mmfm.encoders.light import LightTexts

    folder = bundle.find(run.model)
    if run.model.startswith("local-dir:"):
        folder = Path(run.model.removeprefix("local-dir:"))
    if folder is None or run.adapter is not None or run.device not in (None, "cpu"):
        return None
    try:
        light = LightTexts(folder, load=run.load)
    except ModelError:  # the model itself can read it, or says what is wrong with it
        return None
    return light if light.backbone_hash == index.backbone_hash else None


def _open(run: Run, place: str, engine: str | None, image: str | None) -> Index:
    from mmfm.index import Index

    if engine is not None:
        from mmfm.index.engines import open_engine

        return Index.open(place, engine=open_engine(engine))
    if Index.is_at(place) or not Path(place).is_dir():
        return Index.open(place)
    from mmfm.preprocess.folder import list_images

    count = len(list_images(place))
    _check_picture(image)
    run.say(f"'{place}' is not an index: indexing its {count} pictures for this search only")
    index = Index.build(run.load(), place, progress=run.progress)
    for path, reason in index.report["skipped"]:
        run.say(f"skipped {path}: {reason}")
    return index


def _check_picture(image: str | None) -> None:
    """So that a bad picture is told before a model is loaded. Raises ImageError."""
    if image is not None:
        from mmfm.preprocess.images import load_image

        load_image(image)


def _read_vector(path: str) -> np.ndarray:
    import numpy as np

    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read a vector from '{path}': {error}; give a .npy file") from error
    if not isinstance(vector, np.ndarray) or vector.shape[-1:] != (vector.size,):
        raise DataError(f"'{path}' holds no single vector; wanted an array of shape (D,)")
    return vector.reshape(-1)
