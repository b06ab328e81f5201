"""`mmfm embed`: pictures and texts become vectors in a file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmfm.cli.options import Run, shared
from mmfm.cli.outputs import writable_file
from mmfm.cli.pictures import expand
from mmfm.errors import OutputError, TextError

if TYPE_CHECKING:
    import numpy as np


@click.command("embed")
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("--text", "texts", multiple=True, help="Embed this text as well; may be repeated.")
@click.option("-o", "--output", required=True, help="File to write: .npz or .parquet.")
@shared
def command(run: Run, paths: tuple[str, ...], texts: tuple[str, ...], output: str) -> None:
    """Write vectors of pictures, folders of pictures and texts to a file.

    The file holds `vectors` (N, D), float32 of unit length, and `keys`: the paths of the pictures,
    then the texts.
    """
    if not paths and not texts:
        raise click.UsageError("nothing to embed: give pictures, folders or --text")
    if not all(text.strip() for text in texts):  # why: most likely a variable that was not set
        raise TextError("a text to embed is empty; say something")
    target = writable_file(output, (".npz", ".parquet"))
    if target.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise OutputError("writing .parquet needs pyarrow: pip install pyarrow, or write .npz")
    images = expand(paths)
    model = run.load()

    import numpy as np

    parts = []
    if images:
        parts.append(model.embed_images(images, progress=run.progress))
    if texts:
        parts.append(model.embed_texts(list(texts)))
    vectors = np.concatenate(parts)
    _write(target, vectors, [*images, *texts])
    run.result(
        {"output": str(target), "images": len(images), "texts": len(texts), "dim": model.embed_dim},
        f"{len(vectors)} vectors of {model.embed_dim} numbers in {target}",
    )


def _write(target: Path, vectors: np.ndarray, keys: list[str]) -> None:
    if target.suffix.lower() == ".parquet":
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({"keys": keys, "vectors": list(vectors)})
        pyarrow.parquet.write_table(table, target)
    else:
        import numpy as np

        with open(target, "wb") as file:
            np.savez(file, vectors=vectors, keys=np.array(keys))
