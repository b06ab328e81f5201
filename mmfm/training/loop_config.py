"""How a training runs: the settings of the loop, the same for every task."""

from __future__ import annotations

from dataclasses import dataclass, fields

from mmfm.errors import InputError

CHOICES = {
    "schedule": ("cosine", "constant", "wsd"),
    "precision": ("fp32", "bf16"),
    "parallel": ("ddp", "fsdp2"),
    "resume": ("exact", "anyway"),
}
_AT_LEAST_ONE = (
    "num_steps", "accumulate", "log_every", "evaluate_every", "save_every", "max_bad_steps"
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Settings of `train`. Raises InputError for a value that is none of the choices."""

    # How long and how fast. `num_steps` shapes the cosine, so decide it before starting.
    num_steps: int
    learning_rate: float = 5e-4
    schedule: str = "cosine"  # after warm-up: cosine, constant, or wsd (constant, then a decay)
    warmup_steps: int = 100
    final_rate: float = 0.02  # of learning_rate, at the end of cosine and wsd
    # What an update is.
    parts: tuple[tuple[str, float], ...] = ()  # (regex of names, factor of the rate), first wins
    weight_decay: float = 0.05
    beta2: float = 0.98
    clip_norm: float = 1.0  # longest gradient; inf = as it is
    ema_decay: float = 0.998  # of the averaged weights; 0 = none are kept
    accumulate: int = 1  # slices of a process's batch that are computed one after another
    seed: int = 0
    # How it is computed.
    precision: str = "fp32"  # or bf16: autocast; weights, optimizer and average stay float32
    compile: bool = False  # torch.compile of the repeated blocks
    parallel: str = "ddp"  # with many processes: ddp, or fsdp2 (weights and optimizer sharded)
    # What is said and kept, in steps.
    log_every: int = 20
    evaluate_every: int = 500
    save_every: int = 250
    wandb: str = ""  # project of Weights & Biases; empty = none
    max_bad_steps: int = 20  # non-finite steps in a row before the run stops
    resume: str = "exact"  # or anyway: go on although settings or data are not what they were

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}, wanted one of {', '.join(choices)}"
                )
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, wanted at least 1")
        for name in ("ema_decay", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, wanted at least 0, below 1")
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}, wanted more than 0")

    def evaluates(self, step: int) -> bool:
        """Whether the averaged weights are measured after `step` steps.

        Besides every `evaluate_every` steps and at the end: at 64, 128, 256, ... until the first
        of these, so that a run that goes wrong is seen early.
        """
        early = 64 <= step < self.evaluate_every and step & (step - 1) == 0
        return step > 0 and (early or step % self.evaluate_every == 0 or step == self.num_steps)


def free_settings() -> set[str]:
    """Settings that a resumed run may change: none decides what the weights become."""
    decisive = {
        "num_steps", "learning_rate", "schedule", "warmup_steps", "final_rate", "parts",
        "weight_decay", "beta2", "clip_norm", "ema_decay", "seed", "precision",
    }  # fmt: skip
    return {field.name for field in fields(LoopConfig)} - decisive
