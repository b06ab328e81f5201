"""Adapters: what a model has for LoRA adapters of its parts, by the names that diffusers uses.

A mixin of `MMFM`; what an adapter is and how one learns is in `mmfm.lora`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch


class Adapters:
    """Loads, saves and switches adapters; whatever is computed then has the one that is on."""

    if TYPE_CHECKING:
        backbone: Any

    def load_adapter(self, folder: str | Path, adapter_name: str = "default") -> None:
        """Read an adapter of this model, call it `adapter_name`, and switch it on.

        folder: what `save_adapter` or `mmfm finetune` wrote. Several may be loaded, one is on.
        Needs the extra `lora`. Raises ModelError when it is not whole or was made for other
        weights, InputError without peft.
        """
        from mmfm import lora

        lora.load_set(self, folder, adapter_name)

    def set_adapter(self, adapter_name: str | None) -> None:
        """Switch to a loaded adapter; None: to the base, whose weights come back bit for bit.

        Raises InputError on a name that was not loaded.
        """
        from mmfm import lora

        lora.switch_set(self, adapter_name)

    @property
    def active_adapter(self) -> str | None:
        """The name of the adapter that is on."""
        from mmfm.lora.sets import on

        return on(self)

    def save_adapter(self, folder: str | Path) -> Path:
        """Write what the parts learn, or have switched on, for `load_adapter`: a few MB.

        Raises InputError when there is no adapter, OutputError when it cannot be written.
        """
        from mmfm import lora

        return lora.save_set(self, folder)

    @property
    def backbone_hash(self) -> str:
        """Changes when any embedding could: sha256 over weights, shapes and preprocessing."""
        weights = self.backbone.towers.state_dict(keep_vars=True).values()
        state = tuple((id(w), w.data_ptr(), _version(w)) for w in weights)
        kept = self.__dict__.get("_hash")
        if kept is None or kept[0] != state:
            kept = self.__dict__["_hash"] = (state, self.backbone.hash())
        return kept[1]


def _version(weight: torch.Tensor) -> int:
    return 0 if weight.is_inference() else weight._version
