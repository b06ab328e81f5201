"""How a text probably goes on, read along with its last token: several tokens in one step.

A step of one row is bound by reading the weights, so a few rows more cost little. The tokens that
mostly follow the last two are read with them; as long as what the search chooses is what was
guessed, its logits are there already (speculative decoding, Leviathan et al., arXiv:2211.17192).
Nothing is written that the logits did not say: a wrong guess is forgotten, and costs its row.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mmfm.captioner.stepper import Stepper
from mmfm.captioner.vocabulary import Vocabulary

_MOST = 3  # guesses in a step


class Guesses:
    """The token that probably comes next: by the last two, or where those are new by the last."""

    def __init__(self, rows: Iterable[Sequence[int]]) -> None:
        """rows: of each guess the one or two tokens that it is after, and itself; -1 is none."""
        self._next = {tuple(row[:-1]): row[-1] for row in rows}

    @classmethod
    def build(cls, texts: Iterable[Sequence[int]], least: float = 0.3, count: int = 4) -> Guesses:
        """Of token ids of texts, start and end included: what follows in `least` of the cases.

        count: how often the tokens before it must be there. The end is never guessed, since nothing
        is read after it.
        """
        seen: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        ends = set()
        for text in texts:
            ends.add(text[-1])
            for place in range(1, len(text)):
                for length in (1, 2)[:place]:
                    seen[tuple(text[place - length : place])][text[place]] += 1
        rows = []
        for before, counts in seen.items():
            [(token, times)] = counts.most_common(1)
            if counts.total() >= count:
                likely = times >= least * counts.total() and token not in ends
                rows.append([*before, token if likely else -1])
        return cls(rows)

    def to_list(self) -> list[list[int]]:
        """Rows for JSON, less those that say what is said without them."""
        return sorted(
            [*before, token]
            for before, token in self._next.items()
            if token != (self._next.get(before[1:], -1) if len(before) == 2 else -1)
        )

    def after(self, text: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that `text` probably goes on with."""
        found = list(text[-2:])
        known = len(found)
        while len(found) < known + most:
            token = self._next.get(tuple(found[-2:]), self._next.get((found[-1],), -1))
            if token < 0:
                break
            found.append(token)
        return found[known:]


def guesses_of(vocabulary: Vocabulary, texts: Iterable[str]) -> Guesses:
    """Of texts that captions will be like: those that the head learned."""
    start, end = vocabulary.start_id, vocabulary.end_id
    return Guesses.build([start, *vocabulary.encode(text), end] for text in texts)


class Ahead:
    """A stepper of one row that reads guesses along with the last token."""

    def __init__(self, stepper: Stepper, guesses: Guesses) -> None:
        self.stepper = stepper
        self.guesses = guesses
        self._first = 0  # where in the text the newest step began
        self._read: list[int] = []  # its T tokens
        self._logits = torch.empty(0)  # (T, V) of what comes after each

    def read(self, text: list[int], most: int) -> Tensor:
        """Logits (1, V) of the token after `text`, all but whose last token was read before.

        most: how many tokens are still to be written.
        """
        place = len(text) - 1 - self._first
        if place >= len(self._read) or text[self._first :] != self._read[: place + 1]:
            self._first, place = len(text) - 1, 0
            self._read = [text[-1], *self.guesses.after(text, min(most - 1, _MOST))]
            token_ids = torch.tensor([self._read], device=self.stepper.own.device)
            self.stepper.length = self._first  # what was guessed wrong is forgotten
            self._logits = self.stepper.logits(token_ids, torch.ones_like(token_ids).bool())
        return self._logits[place : place + 1]
