"""An adapter on disk, as PEFT writes and reads it: adapter_config.json, adapter_model.safetensors.

Nothing is unpickled. Names of layers are those of `root_of(part)`: of towers those of open_clip.
"""

from __future__ import annotations

import json
import os
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmfm.durable import replacing
from mmfm.errors import InputError, ModelError, OutputError
from mmfm.lora.adapter import NAME, is_open, peft
from mmfm.lora.targets import root_of

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # which PEFT puts before every name
# what changes more than `get_delta_weight` says, or trains other tensors: PEFT's name, its absence
_NOT_HERE = {
    "use_dora": False, "bias": "none", "lora_bias": False, "modules_to_save": None,
    "target_parameters": None, "trainable_token_indices": None,
}  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """An adapter by itself: PEFT's LoraConfig, and its tensors by their names in the file."""

    config: Any
    tensors: dict[str, Tensor]


def adapter_of(part: nn.Module) -> Adapter:
    """The adapter that a part learns, copied."""
    root: Any = root_of(part)
    tensors = peft().get_peft_model_state_dict(root, adapter_name=NAME, save_embedding_layers=False)
    kept = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    return Adapter(root.peft_config[NAME], kept)


def save(part: nn.Module, folder: str | Path) -> Path:
    """Write the adapter that a part learns or has switched on. Raises InputError when it has none,
    OutputError when it cannot be written.
    """
    from mmfm.lora.switching import current

    adapter = adapter_of(part) if is_open(part) else current(part)
    if adapter is None:
        raise InputError("there is no adapter to save; lora.add or lora.load gives one")
    return write(adapter, Path(folder))


def write(adapter: Adapter, folder: Path) -> Path:
    """Both files, each whole or not at all. Raises OutputError."""
    from safetensors.torch import save as to_bytes

    config = copy(adapter.config)
    config.inference_mode = True  # as PEFT writes it
    told = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    named = {_PREFIX + name: value for name, value in adapter.tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / WEIGHTS) as file:
            file.write(to_bytes(named, metadata={"format": "pt"}))
        with replacing(folder / CONFIG) as file:
            file.write((json.dumps(told, indent=2, sort_keys=True) + "\n").encode())
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}; choose another") from error
    return folder


def read(folder: str | os.PathLike[str]) -> Adapter:
    """Read what `write`, or PEFT, wrote. Raises ModelError when it is no LoRA adapter of plain
    layers, is damaged, or is not there; InputError without peft.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    library, folder = peft(), Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} is no adapter: {name} is missing; wanted a folder of PEFT's"
            )
    try:
        told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if told.get("peft_type") != "LORA":
            raise ModelError(f"{folder} is an adapter of kind {told.get('peft_type')}, wanted LORA")
        for key, absent in _NOT_HERE.items():
            if told.get(key) not in (absent, None, False, [], {}):
                raise ModelError(f"{folder} has {key}={told[key]!r}, which is not read here; merge "
                                 "it with peft and load the merged weights")  # fmt: skip
        config = library.LoraConfig.from_pretrained(str(folder))
        config.inference_mode = False
        tensors = load_file(folder / WEIGHTS)
    except ModelError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        raise ModelError(
            f"{folder} cannot be read as an adapter ({error}); copy it again"
        ) from error
    return Adapter(config, {k.removeprefix(_PREFIX): v for k, v in tensors.items()})
