"""Our model as a module that sentence-transformers loads by itself from a bundle.

    SentenceTransformer("my_model/", trust_remote_code=True)

A bundle's `modules.json` names the class below; the switch is theirs for any class that is not part
of their own package. What is built on that library (LangChain's HuggingFaceEmbeddings, LlamaIndex's
HuggingFaceEmbedding, its own trainer) then takes a bundle's path where it takes a model's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmfm.errors import InputError, ModelError
from mmfm.loading import load
from mmfm.model import MMFM
from mmfm.preprocess.images import load_image
from mmfm.preprocess.text import truncate_check
from mmfm.sentence.inputs import MODALITIES, as_input


class Towers(nn.Module):
    """The backbone alone, trainable: texts and pictures -> "sentence_embedding", unit length."""

    modalities: ClassVar[list[str]] = list(MODALITIES)
    save_in_root: ClassVar[bool] = True

    def __init__(self, model: MMFM) -> None:
        """model: keeps its heads, so that `save` writes a whole bundle again."""
        super().__init__()
        self.backbone = model.backbone
        self._model = [model]  # why a list: its heads are no parameters of this module

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **_: Any) -> Towers:
        """Read a bundle from the disk. Raises ModelError when there is none."""
        return cls(load(Path(model_name_or_path) / subfolder, device="cpu"))

    def save(self, output_path: str, **_: Any) -> None:
        """Write the bundle's own files into a folder that the caller has made."""
        import shutil
        import tempfile

        # why aside: a bundle never replaces a folder that holds other files, and this one may
        with tempfile.TemporaryDirectory() as aside:
            whole = self._model[0].save_pretrained(Path(aside) / "bundle")
            shutil.copytree(whole, output_path, dirs_exist_ok=True)

    def preprocess(self, inputs: list, prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Features of a batch: "input_ids" (B, T) of texts, or "pixel_values" (B, 3, H, W).

        prompt: put before each text. Raises InputError on a batch of both kinds, which that library
        does not send; `MMFM.encode` takes them mixed.
        """
        read = [as_input(value) for value in inputs]
        kinds = {one.modality for one in read}
        if len(kinds) > 1:
            raise InputError("a batch holds texts and pictures; encode them apart")
        if kinds == {"text"}:
            texts = [(prompt or "") + one.value for one in read]
            if hasattr(self.tokenizer, "decode"):
                truncate_check(self.tokenizer, texts, self.max_seq_length)
            return {"input_ids": self.backbone.tokenize(texts)}
        preprocess = self._model[0].preprocess
        pixels = np.stack([preprocess(load_image(one.value)) for one in read])
        return {"pixel_values": torch.from_numpy(pixels)}

    tokenize = preprocess  # its name before 5.4

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Adds "sentence_embedding" (B, D) and, where the tower has them, "token_embeddings"."""
        if "input_ids" in features:
            said = self.backbone.encode_texts(features["input_ids"])
        else:
            said = self.backbone.encode_images(features["pixel_values"])
        features["sentence_embedding"] = said.pooled
        if said.tokens is not None:
            features["token_embeddings"] = said.tokens
            features["attention_mask"] = _mask(said.tokens, said.mask)
        return features

    def get_embedding_dimension(self) -> int:
        """Length of the vectors (D)."""
        return self.backbone.config.embed_dim

    @property
    def max_seq_length(self) -> int:
        """Tokens that the text tower reads."""
        return self.backbone.config.context_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        if value != self.max_seq_length:
            raise ModelError(f"the text tower reads {self.max_seq_length} tokens, not {value}")

    @property
    def tokenizer(self) -> Any:
        """open_clip's tokenizer of the model."""
        return self.backbone.tokenizer


def _mask(tokens: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.long) if mask is None else mask.long()
