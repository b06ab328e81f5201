"""Vectors that are there already: an index, an embedding store, a file of `mmfm embed`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmfm.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from mmfm.model import MMFM


def is_stored(path: str) -> bool:
    """Whether `path` holds vectors of pictures, and no pictures."""
    from mmfm.index import Index

    place = Path(path)
    return place.suffix == ".npz" or Index.is_at(place) or any(place.glob("*/space.json"))


def read_stored(path: str, model: MMFM) -> tuple[list[str], np.ndarray]:
    """What each vector is of (a path, or the sha256 of the picture), and the vectors (N, D).

    Raises DataError when there are none, ModelError when another model made them.
    """
    from mmfm.index import Index

    if path.endswith(".npz"):
        return _read_file(path)
    if Index.is_at(path):
        index = Index.open(path)
        index.fitting(model)
        return index.paths, index.vectors
    return _read_store(path, model)


def _read_file(path: str) -> tuple[list[str], np.ndarray]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [str(key) for key in arrays["keys"]], arrays["vectors"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"cannot read vectors from '{path}': {error}; make it with `mmfm embed`"
        ) from error


def _read_store(path: str, model: MMFM) -> tuple[list[str], np.ndarray]:
    import numpy as np

    from mmfm.data.keyed import hex_keys, read_arrays
    from mmfm.jobs.embed import open_store

    store = open_store(path, model)
    files = store.rows("pooled").files
    keys = [key for file in files for key in hex_keys(read_arrays(file)[1]["keys"])]
    if not keys:
        store.expect([], "pooled")
        raise DataError(
            f"the store '{path}' has no pictures of {model.name}; add them with `mmfm data embed`"
        )
    return keys, np.asarray(store.pooled(keys))
