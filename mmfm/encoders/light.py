"""A few words to a vector without importing torch: a model's folder, read through numpy alone.

A search by words in a new process answers so in a fraction of the time that torch takes to load.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmfm.encoders import hash_memory
from mmfm.encoders.light_tower import TextTower
from mmfm.encoders.tensors import TensorFile
from mmfm.errors import ModelError
from mmfm.preprocess.text import check_texts, truncate_check

CONFIG, BUNDLE_CONFIG = "open_clip_config.json", "config.json"
WEIGHTS = "open_clip_model.safetensors"


class LightTexts:
    """What an index needs of a model that is asked for words: `mmfm.index.query.Embedder`.

    folder: of the model. load: gives the real model, for what this cannot do (pictures).
    Raises Unsupported for towers that are not CLIP's causal or bidirectional text transformer with
    CLIP's own tokenizer, ModelError when the folder is damaged.
    """

    def __init__(self, folder: Path, *, load: Callable[[], Any] | None = None) -> None:
        self.folder = folder
        self._load = load
        self._file = TensorFile(folder / WEIGHTS)
        self._config = _read_config(folder)
        self.name = self._config.get("name", f"local-dir:{folder}")
        self._tower = TextTower(self._config["model_cfg"], self._file)

    @cached_property
    def backbone_hash(self) -> str:
        """As `Backbone.hash` gives it, from the same numbers in the same order, or as remembered.

        Another hash than the index has does not prove another model: open_clip mends some weights
        while it loads them.
        """
        told = json.dumps([self._config["model_cfg"], self._config["preprocess_cfg"]],
                          sort_keys=True)  # fmt: skip
        at = (self._file.path, self._file.stat, told)
        known = hash_memory.recall(*at)
        if known is None:
            known = self._digest(told)
            hash_memory.remember(*at, known)
        return known

    def _digest(self, told: str) -> str:
        digest = hashlib.sha256(told.encode())
        for name in self._file.names():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self._file[name]).data)
        return digest.hexdigest()

    def embed_texts(self, texts: str | Sequence[str]) -> np.ndarray:
        """(N, D) float32, unit length, each within 1e-5 of what the model itself gives.

        Too long a text is cut with a warning that shows the part. Raises TextError for what is
        not a text.
        """
        return np.stack([self._tower(text) for text in self.checked(texts)])

    def words(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each text its vector (D,) and its words' tokens (T, W), within 1e-5 of the model's."""
        return [self._tower.words(text) for text in texts]

    def checked(
        self, texts: str | Sequence[str], truncate: str = "warn", *, blank: bool = True
    ) -> list[str]:
        """The texts, if they are some; warns of what will be cut. blank: empty ones may be."""
        checked = check_texts(texts, blank=blank)
        truncate_check(self._tower.tokenizer, checked, self._tower.context_length, truncate)
        return checked

    def embed_images(self, images: list[Any]) -> np.ndarray:
        """By the real model, which is loaded now. Raises ModelError when there is none."""
        if self._load is None:
            raise ModelError(f"{self.name} is open for texts alone; load it with mmfm.load")
        return self._load().embed_images(images)


def _read_config(folder: Path) -> dict[str, Any]:
    """model_cfg and preprocess_cfg of a model's folder, and its name where it says one."""
    try:
        if (folder / BUNDLE_CONFIG).is_file():
            told = json.loads((folder / BUNDLE_CONFIG).read_text())
            return {"name": told["name"], **told["backbone"]}
        told = json.loads((folder / CONFIG).read_text())
        size = told["model_cfg"]["vision_cfg"].get("image_size", 224)
        preprocess = _complete(told.get("preprocess_cfg") or {}, size)
        return {"model_cfg": told["model_cfg"], "preprocess_cfg": preprocess}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder} is not a model that can be read ({error!r})") from error


def _complete(given: dict[str, Any], image_size: Any) -> dict[str, Any]:
    """A preprocess_cfg as it is once open_clip has loaded the model."""
    from mmfm.preprocess.transform import OPENAI_MEAN, OPENAI_STD  # late: it imports Pillow

    usual = {
        "mode": "RGB", "mean": OPENAI_MEAN, "std": OPENAI_STD, "interpolation": "bicubic",
        "resize_mode": "shortest", "fill_color": 0,
    }  # fmt: skip
    known = {key: given[key] for key in usual if given.get(key) is not None}
    size = [image_size, image_size] if isinstance(image_size, int) else image_size
    return {**usual, **known, "size": size}
