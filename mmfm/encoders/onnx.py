"""Both towers as ONNX graphs, and the encoder that runs them in ONNX Runtime.

    image.onnx   pixels (B, 3, H, W) float32, normalised as preprocess_cfg says -> vectors (B, D)
    text.onnx    ids (B, T) int64, as the tokenizer makes them -> vectors (B, D)
    onnx.json    what else one needs to use them without mmfm: preprocess_cfg, context_length...

Vectors are float32 of unit length. B is free; so is T where padding cannot reach the vector
(`dynamic_length` in onnx.json): leaving it out gives the same vector sooner.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.encoders.architectures import quiet
from mmfm.encoders.backbone import Backbone
from mmfm.encoders.towers import OpenClipText, text_tower
from mmfm.encoders.whole_folder import whole_folder
from mmfm.errors import ModelError
from mmfm.layers.plain import plain

IMAGE_FILE, TEXT_FILE, FACTS_FILE = "image.onnx", "text.onnx", "onnx.json"
FORMAT = 1
OPSET = 18
TOLERANCE = 1e-4  # largest difference of a vector's element that an export may have
_LARGEST_FILE = 1_500_000_000  # bytes; protobuf ends at 2 GB, weights then go beside the graph


class _Image(nn.Module):
    def __init__(self, towers: nn.Module) -> None:
        super().__init__()
        self.towers: Any = towers

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.towers.encode_image(pixels), dim=-1)


class _Text(nn.Module):
    def __init__(self, towers: nn.Module) -> None:
        super().__init__()
        self.towers = towers

    def forward(self, ids: Tensor) -> Tensor:
        features, _, _ = text_tower(self.towers).read(ids, ids.shape[1])
        return F.normalize(features, dim=-1)


def export(backbone: Backbone, folder: str | Path) -> Path:
    """Write both towers and their facts into a folder, which is there whole or not at all.

    The graphs are checked: their form by `onnx.checker`, their vectors against the model's at
    another batch size, and another length where that is free. An earlier export is replaced. Takes
    half a minute for a ViT-B/32. Raises ModelError when a library is missing or the model cannot
    be expressed, OutputError when the folder cannot be written or holds something else.
    """
    for library in ("onnx", "onnxscript", "onnxruntime"):
        _import(library)
    folder, backbone = Path(folder), plain(backbone)
    with whole_folder(folder, FACTS_FILE) as aside, _at_rest(backbone):
        _write(backbone, aside)
        _check(backbone, aside)
    return folder


class OnnxEncoder:
    """The towers of an exported folder in ONNX Runtime, on the processor."""

    name = "onnx"

    def __init__(self, folder: str | Path, *, threads: int | None = None) -> None:
        """threads: of one pass; default torch's number. Raises ModelError for what is no export."""
        runtime = _import("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        folder = Path(folder)
        try:
            self.facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
            if self.facts["format"] != FORMAT:
                raise ValueError(f"its format is {self.facts['format']}, wanted {FORMAT}")
            self._image, self._text = (
                runtime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
                for name in (IMAGE_FILE, TEXT_FILE)
            )
        except Exception as error:  # ONNX Runtime has classes of its own for every fault
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "damaged"
            raise ModelError(
                f"{folder} is no ONNX export of this version ({reason}); export the model again"
            ) from error

    def images(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) float32, normalised -> (B, D) float32 of unit length."""
        return self._run(self._image, "pixels", pixels.float())

    def texts(self, ids: Tensor) -> Tensor:
        """(B, T) ids -> (B, D) float32 of unit length; common padding is left out where it may."""
        if self.facts["dynamic_length"]:
            ids = ids[:, : _length(ids)]
        return self._run(self._text, "ids", ids.long())

    def _run(self, session: Any, name: str, values: Tensor) -> Tensor:
        [vectors] = session.run(None, {name: values.detach().cpu().contiguous().numpy()})
        return torch.from_numpy(vectors).to(values.device)


def _length(ids: Tensor) -> int:
    """Columns up to the last that is not padding in every text, and one more.

    Why one more: some tokenizers end a text with the id that also pads.
    """
    padding = (ids == ids[0, -1]).all(dim=0).flip(0).int().cumprod(0).sum()
    return min(ids.shape[1], ids.shape[1] - int(padding) + 1)


def _write(backbone: Backbone, folder: Path) -> None:
    config, dynamic = backbone.config, _dynamic_length(backbone)
    pixels, ids = _samples(backbone, 2, config.context_length - 1 if dynamic else None)
    free = torch.export.Dim.DYNAMIC
    _export(_Image(backbone.towers), pixels, {0: free}, "pixels", folder / IMAGE_FILE)
    shape = {0: free, 1: free} if dynamic else {0: free}
    _export(_Text(backbone.towers), ids, shape, "ids", folder / TEXT_FILE)
    bias = backbone.logit_bias
    facts = {
        "format": FORMAT,
        "model_cfg": config.model_cfg,
        "preprocess_cfg": config.preprocess_cfg,
        "context_length": config.context_length,
        "dynamic_length": dynamic,
        "embed_dim": config.embed_dim,
        "loss": config.loss,
        "logit_scale": backbone.logit_scale.item(),
        "logit_bias": None if bias is None else bias.item(),
        "backbone_hash": backbone.hash(),
    }
    (folder / FACTS_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _export(module: nn.Module, sample: Tensor, free: dict, name: str, path: Path) -> None:
    import onnx

    size = sum(value.numel() * value.element_size() for value in module.parameters())
    try:
        with quiet(), torch.no_grad():
            torch.onnx.export(
                module.eval(), (sample,), str(path), input_names=[name], output_names=["vectors"],
                dynamic_shapes=(free,), dynamo=True, opset_version=OPSET, verbose=False,
                external_data=size > _LARGEST_FILE,
            )  # fmt: skip
        onnx.checker.check_model(str(path), full_check=True)
    except (RuntimeError, TypeError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"this model cannot be expressed as {path.name} ({reason})") from error


def _check(backbone: Backbone, folder: Path) -> None:
    """The graphs give the model's vectors, also in other shapes than they were traced with."""
    encoder = OnnxEncoder(folder)
    length = max(3, backbone.config.context_length // 2) if _dynamic_length(backbone) else None
    pixels, ids = _samples(backbone, 3, length)
    with torch.inference_mode():
        pairs = {
            IMAGE_FILE: (encoder.images(pixels), _Image(backbone.towers)(pixels)),
            TEXT_FILE: (encoder.texts(ids), backbone.encode_texts(ids).pooled),
        }
    for name, (found, wanted) in pairs.items():
        difference = (found - wanted).abs().max().item()
        if not difference <= TOLERANCE:
            raise ModelError(f"{name} gives other vectors than the model (by {difference:.1e})")


def _dynamic_length(backbone: Backbone) -> bool:
    """Whether callers may leave out padding; not where a class token has its place behind it."""
    tower = text_tower(backbone.towers)
    return tower.trims and not (isinstance(tower, OpenClipText) and tower.class_token is not None)


def _samples(backbone: Backbone, count: int, length: int | None) -> tuple[Tensor, Tensor]:
    """Some pixels and ids that the model can read."""
    random = torch.Generator().manual_seed(0)
    text = backbone.config.model_cfg["text_cfg"]
    largest = text.get("vocab_size", 49408) - 1
    if "hf_model_name" in text:
        largest = min(largest, backbone.towers.text.vocab_size - 1)
    shape = (count, length or backbone.config.context_length)
    ids = torch.randint(3, largest, shape, generator=random)
    ids[:, -1] = text.get("eos_id", largest)
    size = [backbone.config.image_size] * 2
    return torch.randn(count, 3, *size, generator=random), ids


@contextmanager
def _at_rest(backbone: Backbone) -> Iterator[None]:
    """On the processor and without dropout, and afterwards as it was."""
    was, place = backbone.training, next(backbone.parameters()).device
    backbone.eval().to("cpu")
    try:
        yield
    finally:
        backbone.train(was).to(place)


def _import(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise ModelError(f"ONNX needs {library}: pip install 'mmfm[onnx]'") from error
