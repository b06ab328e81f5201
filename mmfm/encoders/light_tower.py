"""CLIP's text transformer in numpy, for the few tokens of a query; equal to torch within 1e-5."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from mmfm.encoders.bpe import ClipTokenizer
from mmfm.encoders.tensors import TensorFile
from mmfm.errors import ModelError

_MODEL = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text",
          "init_logit_scale", "init_logit_bias", "nonscalar_logit_scale"}  # fmt: skip
_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "no_causal_mask",
         "pad_id", "eos_id"}  # fmt: skip
_USUAL: tuple[Any, ...] = (None, False, {}, "argmax", "linear")  # leave another setting as it is
_EPSILON = 1e-5  # of torch's LayerNorm


class Unsupported(ModelError):
    """This text tower is not one that numpy computes here; load the model with `mmfm.load`."""


class TextTower:
    """Words to one unit vector, as open_clip's TextTransformer computes it (2103.00020)."""

    def __init__(self, config: dict[str, Any], file: TensorFile) -> None:
        _check_config(config)
        text = config["text_cfg"]
        self._file = file
        self._prefix = "text." if config.get("custom_text") else ""
        self._is_causal = not text.get("no_causal_mask")
        self._activate = _quick_gelu if config.get("quick_gelu") else _gelu
        self._heads, self._layers = text.get("heads", 8), text.get("layers", 12)
        self.context_length = text.get("context_length", 77)
        self._arrays: dict[str, np.ndarray] = {}
        self._check_shapes(config, text)

    @cached_property
    def tokenizer(self) -> ClipTokenizer:
        return ClipTokenizer()

    def __call__(self, text: str) -> np.ndarray:
        """(D,) float32."""
        return self._pooled(self._read(text, all_words=False)[0])

    def words(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """(D,) and the words' tokens (T, W), from the start to the end of the text, float32."""
        tokens = self._read(text, all_words=True)
        return self._pooled(tokens[-1]), tokens

    def _read(self, text: str, all_words: bool) -> np.ndarray:
        """(T, W) of all words up to the end, or (1, W) of the end alone."""
        ids = self._ids(text)
        end = int(np.argmax(ids))  # the end-of-text id is the largest
        if self._is_causal:  # nothing after the end is seen by it
            ids = ids[: end + 1]
        x = self._file.rows(self._prefix + "token_embedding.weight", ids)
        x = x + self._array("positional_embedding")[: len(ids)]
        for number in range(self._layers - 1):
            x = self._block(number, x, slice(None))
        asked = slice(0 if all_words else end, end + 1)
        return self._norm("ln_final", self._block(self._layers - 1, x, asked))

    def _pooled(self, token: np.ndarray) -> np.ndarray:
        pooled = token @ self._array("text_projection")
        return pooled / max(float(np.linalg.norm(pooled)), 1e-12)

    def _ids(self, text: str) -> list[int]:
        """With the marks of start and end, cut as open_clip cuts, padded with 0."""
        inside = self.tokenizer.encode(text)[: self.context_length - 2]
        ids = [self.tokenizer.start, *inside, self.tokenizer.end]
        return ids + [0] * (self.context_length - len(ids))

    def _block(self, number: int, x: np.ndarray, asked: slice) -> np.ndarray:
        """One residual block over x (T, W), for the places `asked` alone."""
        at = f"transformer.resblocks.{number}."
        x, seen = x[asked], self._norm(at + "ln_1", x)
        x = x + self._linear(at + "attn.out_proj", self._attend(at + "attn.in_proj_", seen, asked))
        inner = self._activate(self._linear(at + "mlp.c_fc", self._norm(at + "ln_2", x)))
        return x + self._linear(at + "mlp.c_proj", inner)

    def _attend(self, at: str, x: np.ndarray, asked: slice) -> np.ndarray:
        weight, bias = self._array(at + "weight"), self._array(at + "bias")
        width = x.shape[1]
        q = self._split(x[asked] @ weight[:width].T + bias[:width])
        k, v = (
            self._split(x @ weight[part].T + bias[part])
            for part in (slice(width, 2 * width), slice(2 * width, None))
        )
        scores = q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(q.shape[2]))  # (heads, asked, T)
        if self._is_causal:
            places = np.arange(len(x))
            scores = np.where(places <= places[asked, None], scores, -np.inf)
        scores = np.exp(scores - scores.max(axis=2, keepdims=True))
        mixed = scores / scores.sum(axis=2, keepdims=True) @ v
        return mixed.transpose(1, 0, 2).reshape(-1, width)

    def _split(self, x: np.ndarray) -> np.ndarray:
        """(T, W) -> (heads, T, W / heads)."""
        return x.reshape(len(x), self._heads, -1).transpose(1, 0, 2)

    def _linear(self, at: str, x: np.ndarray) -> np.ndarray:
        return x @ self._array(at + ".weight").T + self._array(at + ".bias")

    def _norm(self, at: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(_EPSILON))
        return centred / scale * self._array(at + ".weight") + self._array(at + ".bias")

    def _array(self, name: str) -> np.ndarray:
        """A tensor of the tower, widened once."""
        if name not in self._arrays:
            self._arrays[name] = self._file[self._prefix + name]
        return self._arrays[name]

    def _check_shapes(self, config: dict[str, Any], text: dict[str, Any]) -> None:
        width, depth = text.get("width", 512), self._layers
        inner = int(width * text.get("mlp_ratio", 4.0))
        wanted: dict[str, tuple[int, ...]] = {
            "token_embedding.weight": (text.get("vocab_size", 49408), width),
            "positional_embedding": (self.context_length, width),
            "text_projection": (width, config["embed_dim"]),
            "ln_final.weight": (width,), "ln_final.bias": (width,),
        }  # fmt: skip
        parts = {
            "ln_1.": (width,), "ln_2.": (width,), "attn.in_proj_": (3 * width, width),
            "attn.out_proj.": (width, width), "mlp.c_fc.": (inner, width),
            "mlp.c_proj.": (width, inner),
        }  # fmt: skip
        for number in range(depth):
            for part, shape in parts.items():
                at = f"transformer.resblocks.{number}.{part}"
                wanted |= {f"{at}weight": shape, f"{at}bias": shape[:1]}
        for name, shape in wanted.items():
            there = self._file.shape(self._prefix + name)
            if there != shape:
                raise Unsupported(f"{self._file.path} has {name} {there}, wanted {shape}")


def _check_config(config: dict[str, Any]) -> None:
    """Raises Unsupported at the first setting that changes what this file computes."""
    text = config.get("text_cfg")
    if not isinstance(text, dict) or "embed_dim" not in config:
        raise Unsupported("a model without a text tower needs torch")
    unknown = sorted(config.keys() - _MODEL)
    unknown += sorted(key for key in text.keys() - _TEXT if text[key] not in _USUAL)
    if unknown:
        raise Unsupported(f"a text tower with {', '.join(unknown)} needs torch")
    if text.get("vocab_size", 49408) <= ClipTokenizer.end:
        raise Unsupported("a text tower of a smaller vocabulary than CLIP's needs torch")


def _quick_gelu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(np.float32(-1.702) * x))


def _gelu(x: np.ndarray) -> np.ndarray:
    """x times the normal distribution's share below x; erf by Abramowitz and Stegun 7.1.26."""
    size = np.abs(x.astype(np.float64)) / np.sqrt(2)
    t = 1 / (1 + 0.3275911 * size)
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741
           + t * (-1.453152027 + t * 1.061405429))))  # fmt: skip
    tail = 0.5 * poly * np.exp(-size * size)  # of the normal distribution beyond |x|
    return (x * np.where(x < 0, tail, 1 - tail)).astype(np.float32)
