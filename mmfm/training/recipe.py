"""A recipe: everything that decides a pre-training, in one frozen value.

A recipe file is a Python file with a function `recipe() -> Recipe`. It is loaded by its path, so
that anybody's file works and nothing of it needs to be installed; settings are changed with
`key=value` (`loop.num_steps=10`, `model_cfg.vision_cfg.patch_dropout=0.5`).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfm.config import BackboneConfig, override, to_dict
from mmfm.data.bad import BadSamples
from mmfm.errors import InputError
from mmfm.preprocess.transform import OPENAI_MEAN, OPENAI_STD, Preprocess
from mmfm.training.loop_config import LoopConfig

CAPTIONS = ("first", "random")
_FREE = {  # what may change when a run is resumed: none of it decides what is learned
    "data", "held_out", "held_out_samples", "num_samples", "sample_bytes", "text_tokens", "workers",
    "cluster", "checkpoint_activations", "on_bad", "max_bad",
    "loop",  # the loop has its own list
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The machines a recipe is planned for; `torchrun` decides what it really runs on."""

    nodes: int = 1
    gpus: int = 8  # of each node
    gpu: str = "H100"  # a name of mmfm.training.plan.GPUS
    # Of the GPU's dense bf16 peak. open_clip's published runs on A100 reached 0.12 (ViT-B/32, 850
    # pictures a second on each) to 0.15 (ViT-B/16, 390).
    utilisation: float = 0.4
    worker_rate: float = 400.0  # samples a second that one loader process decodes

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.gpus < 1:
            raise InputError(
                f"the cluster has {self.nodes} nodes of {self.gpus} GPUs; wanted at least 1 of each"
            )
        if not 0 < self.utilisation <= 1:
            raise InputError(f"cluster.utilisation is {self.utilisation}, wanted above 0, up to 1")
        if not self.worker_rate > 0:
            raise InputError(f"cluster.worker_rate is {self.worker_rate}, wanted more than 0")

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A contrastive pre-training on shards. Raises InputError when parts contradict each other."""

    name: str
    model_cfg: dict[str, Any]  # as open_clip writes it
    loss: str = "softmax"  # or "sigmoid"
    mean: tuple[float, float, float] = OPENAI_MEAN  # RGB, of pixels in [0, 1]
    std: tuple[float, float, float] = OPENAI_STD
    data: str = ""  # shards: a folder, a pattern such as 00000..12895.tar in braces, or a URL
    held_out: str = ""  # shards that are never trained on; without them nothing is measured
    held_out_samples: int = 5000  # of them, evenly spaced
    num_samples: int  # that the data is planned to hold
    sample_bytes: int = 40_000  # of one picture with its captions in a shard, on average
    text_tokens: int | None = None  # of a batch's longest caption, for the plan; none = all
    batch_size: int  # of a step, over all processes
    captions: str = "first"  # of each sample; or "random", drawn anew each time
    same_caption: bool = False  # pairs with equal captions are positive pairs of each other
    crop: float = 0.9  # least share of the picture's area that a random crop keeps; 1 = no crop
    workers: int = 8  # processes that decode, for each GPU
    on_bad: str = "skip"  # a sample that cannot be read: "raise", "skip" or "quarantine"
    max_bad: float = 0.01  # share of bad samples at which the run stops
    checkpoint_activations: bool = False  # recompute blocks in the backward pass to save memory
    loop: LoopConfig
    cluster: Cluster = field(default_factory=Cluster)

    def __post_init__(self) -> None:
        _ = self.backbone  # raises for an unknown loss
        for name, least in (("batch_size", 2), ("num_samples", 1), ("held_out_samples", 1),
                            ("sample_bytes", 1), ("workers", 0)):  # fmt: skip
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, wanted at least {least}")
        if self.captions not in CAPTIONS:
            raise InputError(f"captions is {self.captions!r}, wanted one of {', '.join(CAPTIONS)}")
        if not 0 < self.crop <= 1:
            raise InputError(f"crop is {self.crop}, wanted above 0, up to 1 (no crop)")
        BadSamples(self.on_bad, self.max_bad, "x" if self.on_bad == "quarantine" else None)
        if self.loss == "sigmoid" and self.model_cfg.get("init_logit_bias") is None:
            raise InputError("the sigmoid loss needs model_cfg.init_logit_bias, as SigLIP's -10")

    @property
    def backbone(self) -> BackboneConfig:
        """The model in open_clip's words, pixels included."""
        size = BackboneConfig(model_cfg=self.model_cfg, preprocess_cfg={}).image_size
        pixels = Preprocess(image_size=size, mean=self.mean, std=self.std)
        return BackboneConfig(
            model_cfg=self.model_cfg, preprocess_cfg=pixels.to_open_clip(), loss=self.loss
        )

    @property
    def samples_seen(self) -> int:
        return self.loop.num_steps * self.batch_size

    def local_batch(self, ranks: int) -> int:
        """Samples of a step on each of `ranks` processes. Raises InputError when it is no share."""
        parts = ranks * self.loop.accumulate
        if self.batch_size % parts:
            raise InputError(
                f"batch_size={self.batch_size} cannot be shared by {ranks} processes with "
                f"loop.accumulate={self.loop.accumulate}; take a multiple of {parts}, such as "
                f"{max(1, round(self.batch_size / parts)) * parts}"
            )
        return self.batch_size // ranks

    def decides(self) -> dict[str, Any]:
        """Those settings, the loop's aside, that decide the weights: a resumed run keeps them."""
        return {k: v for k, v in to_dict(self).items() if k not in _FREE}


def load_recipe(spec: str, settings: Sequence[str] = ()) -> Recipe:
    """`FILE.py` or `FILE.py:function`, called, with `("key=value", ...)` applied.

    Raises InputError when the file, the function or a setting is not there, when the file cannot
    be run, or when the function gives no Recipe.
    """
    path, _, name = (spec, "", "recipe") if spec.endswith(".py") else spec.rpartition(":")
    file = Path(path or spec)
    if file.suffix != ".py" or not file.is_file():
        raise InputError(f"there is no recipe file {str(file)!r}; wanted FILE.py or FILE.py:NAME")
    module = _run_file(file)
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{file} has no function {name!r}; wanted `def {name}() -> Recipe`")
    recipe = _trusted(file, function)
    if not isinstance(recipe, Recipe):
        raise InputError(f"{name}() of {file} gave {type(recipe).__name__}, wanted a Recipe")
    pairs = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise InputError(f"got {setting!r}, wanted key=value, such as loop.num_steps=100")
        pairs[key] = value
    return override(recipe, pairs)


def _run_file(file: Path) -> Any:
    found = importlib.util.spec_from_file_location(f"mmfm_recipe_{file.stem}", file)
    assert found is not None and found.loader is not None  # a .py file has a loader
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # dataclasses of the file look their module up
    loader = found.loader
    _trusted(file, lambda: loader.exec_module(module))
    return module


def _trusted(file: Path, work: Callable[[], Any]) -> Any:
    """Code of the caller's file, in which anything may go wrong."""
    try:
        return work()
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file} cannot be run ({type(error).__name__}: {reason})") from error
