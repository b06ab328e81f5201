"""From a name to a model: what ships, a bundle on disk, or any open_clip model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmfm import bundle
from mmfm.bundle import WEIGHTS
from mmfm.config import ModelConfig
from mmfm.encoders import architectures
from mmfm.encoders.published import from_open_clip
from mmfm.errors import ModelError
from mmfm.model import MMFM

_PREFIXES = ("open_clip:", "hf-hub:", "local-dir:")


def list_models(*, published: bool = False) -> list[str]:
    """Names that `load` takes: of the models that ship with the package, which need no network.

    published: also of all checkpoints that open_clip lists, `open_clip:ARCH/TAG`.
    """
    shipped = sorted(path.parent.name for path in WEIGHTS.glob("*/config.json"))
    if not published:
        return shipped
    return shipped + [f"open_clip:{arch}/{tag}" for arch, tag in architectures.published()]


def load(
    name: str | Path = "mini", *, checkpoint: str | Path | None = None, allow_pickle: bool = False,
    decoder: Any = None, prior: Any = None, adapter: str | Path | None = None,
    device: str | None = None,
) -> MMFM:  # fmt: skip
    """A model by name: one that ships ("mini"), a bundle folder, or any open_clip model.

    The latter is a backbone without heads: it embeds, searches and classifies.

    - `open_clip:ARCH/TAG`: what open_clip publishes (`list_models(published=True)`), and
      `hf-hub:ORG/NAME`, through the cache of the Hugging Face hub;
    - `local-dir:PATH`: a folder with open_clip_config.json and weights;
    - `open_clip:ARCH/FILE.safetensors`, or `open_clip:ARCH` with `checkpoint=FILE`: weights on
      disk. `ARCH/TAG` with a checkpoint prepares pictures as for TAG;
    - `open_clip:ARCH/random`: random weights, to measure speed; warns.

    checkpoint: weights in place of those that an open_clip name stands for. allow_pickle: read .pt,
    .pth and .bin too; only tensors are unpickled. decoder, prior: a decoder published for this
    backbone's embeddings (`MMFM.with_decoder`). adapter: a folder, as `MMFM.load_adapter` of it
    (extra `lora`). device: "cpu", "cuda", "mps"...; default the best
    one present. Raises ModelError on an unknown name, files that cannot be had, damaged or other
    weights, or an absent device.
    """
    if adapter is not None:
        base = load(name, checkpoint=checkpoint, allow_pickle=allow_pickle, decoder=decoder,
                    prior=prior, device=device)  # fmt: skip
        base.load_adapter(adapter)
        return base
    if decoder is not None:
        bare = load(name, checkpoint=checkpoint, allow_pickle=allow_pickle, device=device)
        return bare.with_decoder(decoder, prior=prior)
    if prior is not None:
        raise ModelError("prior goes with decoder=, the pipeline that it was published for")
    text = str(name)
    if text.startswith(_PREFIXES):
        backbone = from_open_clip(
            text.removeprefix("open_clip:"), checkpoint=checkpoint, allow_pickle=allow_pickle
        )
        config = ModelConfig(name=text, backbone=backbone.config)
        return MMFM(config, backbone, device=device)
    if checkpoint is not None:
        raise ModelError(
            f"checkpoint={str(checkpoint)!r} goes with an open_clip: name, got {text!r}; a bundle "
            "brings its own weights"
        )
    if (folder := bundle.find(text)) is not None:
        return MMFM.from_pretrained(folder, device=device)
    raise ModelError(
        f"there is no model {text!r}; wanted one of {', '.join(list_models()) or 'none shipped'}, "
        "a bundle folder, open_clip:ARCH/TAG, hf-hub:ORG/NAME or local-dir:PATH"
    )
