"""What a fine-tuning may be told, and what it decides itself from the size of the data."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from mmfm.errors import InputError

HEADS = ("contrastive", "caption", "decoder")
PROMPT = "prompt"
WHAT = ("heads", "blocks:N", "lora", "all")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the weights; None = decided from the data. Raises InputError."""

    heads: tuple[str, ...] = HEADS  # skills that adapt; or ("prompt",) alone
    train: str | None = None  # heads, blocks:N (last n of each tower), lora, all
    steps: int | None = None  # of the towers; the heads make as many in proportion
    holdout: float = 0.1  # share of the pictures that is only measured
    learning_rate: float | None = None  # of the towers
    batch_size: int | None = None
    replay: float = 0.25  # share of a batch that is original data, where there is some
    keep: float = 1.0  # weight of what holds the towers to what they were; 0 = nothing does
    mix: float | None = None  # share of the new weights, 0 to 1; None = chosen
    rank: int = 8  # of LoRA
    patience: int = 4  # evaluations without a gain, after which a stage ends
    precision: str = "auto"  # fp32, bf16: autocast; auto = bf16 where the processor has units
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [head for head in self.heads if head not in (*HEADS, PROMPT)]
        if unknown or not self.heads:
            raise InputError(
                f"there is no head {unknown[0] if unknown else ''!r}; wanted some of "
                f"{', '.join(HEADS)}, or {PROMPT} alone"
            )
        if PROMPT in self.heads and len(self.heads) > 1:
            raise InputError(f"{PROMPT} adapts words alone; ask for it without other heads")
        if self.train is not None and not re.fullmatch(
            r"heads|blocks:[1-9]\d*|lora|all", self.train
        ):
            raise InputError(f"train is {self.train!r}, wanted one of {', '.join(WHAT)}")
        shares = {"holdout": (0.01, 0.5), "replay": (0.0, 0.9), "keep": (0.0, 100.0)}
        if self.mix is not None:
            shares["mix"] = (0.0, 1.0)
        for name, (low, high) in shares.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} is {getattr(self, name)}, wanted {low} to {high}")
        for name in ("steps", "batch_size", "rank", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, wanted at least 1")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise InputError(f"learning_rate is {self.learning_rate}, wanted more than 0")
        if self.precision not in PRECISIONS:
            raise InputError(
                f"precision is {self.precision!r}, wanted one of {', '.join(PRECISIONS)}"
            )

    def adapts(self, head: str) -> bool:
        return head in self.heads

    @property
    def num_blocks(self) -> int | None:
        """Of `blocks:N`, else None."""
        name, _, count = (self.train or "").partition(":")
        return int(count) if name == "blocks" else None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "heads": list(self.heads)}


def heads_from(text: str) -> tuple[str, ...]:
    """`"caption, decoder"` as the setting `heads`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
