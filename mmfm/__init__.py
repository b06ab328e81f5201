"""mmfm: one contrastive backbone for retrieval, captioning and generation.

    import mmfm
    model = mmfm.load("mini")

Nothing heavy is imported until it is used: `import mmfm` loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "load": "mmfm.loading",
    "list_models": "mmfm.loading",
    "MMFM": "mmfm.model",
    "Embeddings": "mmfm.shapes",
    "ModelConfig": "mmfm.config",
    "Index": "mmfm.index",
    "finetune": "mmfm.finetuning",
    "FinetuneReport": "mmfm.finetuning",
    "InputError": "mmfm.errors",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from mmfm.config import ModelConfig as ModelConfig
    from mmfm.errors import InputError as InputError
    from mmfm.finetuning import FinetuneReport as FinetuneReport
    from mmfm.finetuning import finetune as finetune
    from mmfm.index import Index as Index
    from mmfm.loading import list_models as list_models
    from mmfm.loading import load as load
    from mmfm.model import MMFM as MMFM
    from mmfm.shapes import Embeddings as Embeddings


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmfm' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
