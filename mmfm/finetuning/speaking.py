"""The caption head learns a folder in two stages, and is then mixed with what it was.

First new words: the rows of tokens that no known text has, and nothing else of the head, so that
what it says of other pictures changes only where a new word takes its place. Then the whole head;
how much of that stays is chosen on the hold-out and on what it could say before (`mixing`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmfm.captioner.network import Captioner
from mmfm.finetuning import mixing
from mmfm.finetuning.looking import look
from mmfm.finetuning.watch import Rows
from mmfm.training.caption import CaptionData, CaptionTask

if TYPE_CHECKING:
    from mmfm.finetuning.stages import Tuning

_RATE = 3e-4
_WORD_BATCH, _WORD_RATE = 64, 3e-3
_WORD_SHARES = (0.4, 0.6, 0.8, 1.0)  # fewer: below, new words are not said yet


def learn_to_speak(tuning: Tuning) -> None:
    """Run the stages of captions of a tuning whose towers are done.

    The head begins with what it was before the towers learned. why: beside them it forgets words
    fast, and how much of that stays was chosen by search alone.
    """
    is_whole = "caption" not in tuning.fresh and not tuning.lora  # there is something to mix with
    if is_whole:
        tuning.grow_vocabulary()
    task, rows = tuning.captions()
    head = task.module
    if tuning.spoke and is_whole:
        head.load_state_dict(tuning.spoke)

    def run(name: str, rows: Rows, steps: int, rate: float, weight_decay: float = 0.05) -> None:
        tuning.stage(name, task, rows, steps, rate, lambda n: -n["held_out_caption_loss"],
                     weight_decay=weight_decay)  # fmt: skip

    if not is_whole:
        rate = 1e-3 if "caption" in tuning.fresh else _RATE
        return run("captions", rows, tuning.choices.caption_steps, rate)
    mixed = _Mixed(task, tuning)
    if tokens := _new_tokens(tuning):
        # every picture alike often: original ones say where a new word does not belong
        size = min(_WORD_BATCH, len(rows.keys))
        alike = Rows(np.ones(len(rows.keys)), size, rows.seed, rows.keys)
        with only_rows(head, tokens), mixed("word_mix", _WORD_SHARES):
            run("caption_words", alike, tuning.word_steps, _WORD_RATE, weight_decay=0.0)
    with mixed("caption_mix"):
        run("captions", rows, tuning.choices.caption_steps, _RATE)


class _Mixed:
    """Mixes the head with what it was before a stage, by what it says of the hold-out, so that it
    loses little of what it could say at first of original pictures."""

    def __init__(self, task: CaptionTask, tuning: Tuning) -> None:
        self.head, self.told = task.module, tuning.told
        self.asked = {"held_out": task}
        if tuning.material.original is not None:
            exam = tuning.material.original.exam
            seen = look(tuning.model.backbone, exam.squares)
            known = CaptionData(seen, exam.captions, exam.squares.meta)
            self.asked["original"] = CaptionTask(self.head, task.vocabulary, task.train, known)
        self.before = self.measure()

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        told = {name: one.evaluate(self.head.eval())[0] for name, one in self.asked.items()}
        found = {f"{name}_f1": said["held_out_token_f1"] for name, said in told.items()}
        return {"held_out": told["held_out"]["held_out_captions"], **found}

    @contextmanager
    def __call__(self, name: str, shares: Sequence[float] = mixing.SHARES) -> Iterator[None]:
        """A stage; what was tried after it is told as `name`."""
        old = _copied(self.head)
        yield
        pick = mixing.little_lost(self.before, "f1", mixing.MAY_FORGET)
        new = _copied(self.head)
        share, tries = mixing.choose(self.head, old, new, self.measure, pick, shares)
        self.told[name] = {"share": share, "before": self.before, "tries": tries}


def _copied(head: Captioner) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in head.state_dict().items()}


@contextmanager
def only_rows(head: Captioner, rows: list[int]) -> Iterator[None]:
    """For a while only these rows of the head's token embedding have a gradient."""
    weight = head.token_embedding.weight
    mine = weight.new_zeros(len(weight), 1)
    mine[rows] = 1
    head.requires_grad_(False)
    weight.requires_grad_(True)
    hook = weight.register_hook(lambda gradient: gradient * mine)
    try:
        yield
    finally:
        hook.remove()
        head.requires_grad_(True)


def _new_tokens(tuning: Tuning) -> list[int]:
    """Local ids of the new tokens that the vocabulary has now."""
    vocabulary = tuning.model.vocabulary
    assert vocabulary is not None
    places = {token: local for local, token in enumerate(vocabulary.token_ids)}
    return [places[token] for token in tuning.new_tokens if token in places]
