"""open_clip itself: its list of architectures and published weights, and how it builds a model.

The only file that imports open_clip, so that a new release of it can break only one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, device, nn

from mmfm.errors import ModelError

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
PICKLED_FILE = "open_clip_pytorch_model.bin"

# what of a published checkpoint's entry says how its pictures are prepared
_PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode", "fill_color")
_ASK = "check the network and HF_HUB_OFFLINE, or set HF_HOME to the folder that holds its files"


def names() -> list[str]:
    """Architectures that open_clip knows by name."""
    import open_clip

    return open_clip.list_models()


def published() -> list[tuple[str, str]]:
    """(architecture, tag) of every checkpoint that open_clip lists."""
    import open_clip

    return open_clip.list_pretrained()


def model_cfg(name: str) -> dict[str, Any] | None:
    """What open_clip builds under that name; None when it does not know it."""
    import open_clip

    return open_clip.get_model_config(name)


def checkpoint_entry(name: str, tag: str) -> dict[str, Any]:
    """open_clip's entry of a published checkpoint (`hf_hub`, `quick_gelu`, `mean`...), or {}."""
    import open_clip

    return dict(open_clip.get_pretrained_cfg(name, tag) or {})


def preprocess_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint's entry that belongs to `preprocess_cfg`."""
    return {key: entry[key] for key in _PREPROCESS_KEYS if entry.get(key) is not None}


def build(
    model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any], where: str = "cpu"
) -> tuple[nn.Module, dict[str, Any]]:
    """A model with random weights, and its whole `preprocess_cfg`; on "meta" shapes alone.

    Raises ModelError when open_clip cannot make a model of that config, or not on this machine.
    """
    import open_clip

    name = _registered(model_cfg)
    told = {key: value for key, value in preprocess_cfg.items() if value is not None}
    try:
        with quiet(), device(where):
            towers = open_clip.create_model(
                name,
                load_weights=False,
                pretrained_text=False,  # else the text towers of Hugging Face are downloaded
                force_preprocess_cfg=told,
                device=where,
            )
    except Exception as error:  # damaged configs raise nearly anything
        raise ModelError(_why_not(model_cfg, error)) from error
    # one form, that of JSON, so that equal models have equal configs and hashes
    found = json.loads(json.dumps(open_clip.get_model_preprocess_cfg(towers)))
    if isinstance(found.get("size"), int):
        found["size"] = [found["size"]] * 2
    return towers, found


def tokenizer(model_cfg: dict[str, Any], folder: Path | None = None) -> Any:
    """What turns texts into ids, from `folder` if it holds the files of a Hugging Face tokenizer.

    When those cannot be had, something that says so as soon as a text is to be read: pictures can
    be embedded without.
    """
    import open_clip

    wanted = model_cfg["text_cfg"].get("hf_tokenizer_name")
    local = wanted and folder is not None and any(folder.glob("tokenizer*"))
    if wanted and importlib.util.find_spec("transformers") is None:
        return NoTokenizer(
            f"its texts are read by the Hugging Face tokenizer {wanted}: pip install transformers"
        )
    try:
        with quiet():
            return open_clip.get_tokenizer(
                f"local-dir:{folder}" if local else _registered(model_cfg)
            )
    except Exception as error:  # no file, no network, damaged file
        return NoTokenizer(
            f"its Hugging Face tokenizer {wanted} cannot be had ({first_line(error)}); {_ASK}, or "
            "load a folder that has its files with local-dir:PATH"
        )


class NoTokenizer:
    """Stands where a tokenizer should be; refuses every text with the reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        raise ModelError(f"this model cannot read texts: {self.reason}")


def adapted(
    towers: nn.Module, state: dict[str, Tensor], *, resizes: bool = False
) -> dict[str, Tensor]:
    """A published state dict under the names and shapes of this version, as open_clip loads it.

    towers may be on "meta", and state too: then only names and shapes are worked out. resizes:
    resample the positions of patches and words when the model has more or fewer.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.factory import (
        convert_to_custom_text_state_dict,
        resize_pos_embed,
        resize_text_pos_embed,
    )

    state = convert_state_dict(towers, dict(state))
    if "positional_embedding" in state and not hasattr(towers, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):  # once a vector of one, now a scalar, or back
        wanted = getattr(towers, name, None)
        if name in state and wanted is not None and state[name].numel() == wanted.numel():
            state[name] = state[name].reshape(wanted.shape)
    if "logit_bias" not in state and towers.logit_bias is not None and "logit_scale" in state:
        state["logit_bias"] = state["logit_scale"].new_zeros(towers.logit_bias.shape)
    state.pop("text.transformer.embeddings.position_ids", None)  # not since transformers 4.31
    if resizes:
        resize_pos_embed(state, towers)
        resize_text_pos_embed(state, towers)
    return state


@contextmanager
def quiet() -> Iterator[None]:
    """open_clip, timm and the hub warn of what was asked for, and of what is then told better."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def first_line(error: BaseException) -> str:
    """What an error says, on one line, or its name when it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


def _registered(model_cfg: dict[str, Any]) -> str:
    """The name under which open_clip knows this config from now on."""
    from open_clip.factory import _MODEL_CONFIGS

    name = "mmfm-" + hashlib.sha256(json.dumps(model_cfg).encode()).hexdigest()[:12]
    _MODEL_CONFIGS[name] = model_cfg  # add_model_config takes only files
    return name


def _why_not(model_cfg: dict[str, Any], error: Exception) -> str:
    text = model_cfg.get("text_cfg")
    tower = text.get("hf_model_name") if isinstance(text, dict) else None
    if tower and importlib.util.find_spec("transformers") is None:
        return f"its text tower is Hugging Face's {tower}: pip install transformers"
    if tower:
        return (
            f"its text tower, Hugging Face's {tower}, cannot be built ({first_line(error)}); {_ASK}"
        )
    return f"open_clip cannot build this model_cfg ({first_line(error)}); check {CONFIG_FILE}"
