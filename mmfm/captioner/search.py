"""The two searches for captions: rows written independently (greedy, sampled), and beams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mmfm.captioner.guesses import Ahead
from mmfm.captioner.stepper import Stepper
from mmfm.captioner.vocabulary import Vocabulary
from mmfm.errors import InputError

_ENDED = 0.25  # of the rows in work: at that share, copying the others costs less than going on


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What both searches obey. Lengths count new tokens, without prompt and end.

    Raises InputError on a value out of range.
    """

    num_beams: int
    top_p: float | None
    top_k: int | None
    temperature: float
    num_captions: int
    max_tokens: int
    min_tokens: int
    repetition_penalty: float
    length_penalty: float
    seed: int | None

    def __post_init__(self) -> None:
        for name in ("num_beams", "num_captions", "max_tokens"):
            _expect(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        _expect("top_k", self.top_k, self.top_k is None or self.top_k >= 1, "at least 1")
        in_range = self.top_p is None or 0 < self.top_p <= 1
        _expect("top_p", self.top_p, in_range, "above 0 and at most 1")
        _expect("temperature", self.temperature, 0 < self.temperature < 1e4, "above 0")
        penalty = self.repetition_penalty
        _expect("repetition_penalty", penalty, 0 < penalty < 1e4, "above 0, 1 for none")
        in_range = 0 <= self.min_tokens <= self.max_tokens
        _expect("min_tokens", self.min_tokens, in_range, f"from 0 to max_tokens={self.max_tokens}")
        if self.num_beams > 1 and self.sampled:
            raise InputError(
                f"num_beams={self.num_beams} cannot go with top_p, top_k or a temperature other "
                f"than 1; search with beams or sample, not both"
            )
        if 1 < self.num_beams < self.num_captions:
            raise InputError(
                f"num_captions={self.num_captions} is more than num_beams={self.num_beams}; use as "
                f"many beams as captions, or num_beams=1 to sample them"
            )

    @property
    def sampled(self) -> bool:
        """True when tokens are drawn instead of searched for."""
        chosen = self.top_p is not None or self.top_k is not None or self.temperature != 1.0
        return chosen or (self.num_beams == 1 and self.num_captions > 1)


def _expect(name: str, value: object, is_right: bool, wanted: str) -> None:
    if not is_right:
        raise InputError(f"{name} is {value}, wanted {wanted}; choose another value")


class CaptionHead(Protocol):
    """What decoding asks of a head: `Captioner`, `CoCaHead`."""

    @property
    def max_tokens(self) -> int: ...

    def stepper(self, memory: Tensor, memory_mask: Tensor) -> Stepper: ...


@dataclass
class _Writer:
    """Logits of the next token under the rules that hold for every search."""

    vocabulary: Vocabulary
    rules: Rules
    written: list[list[int]]  # per row, prompt included: what a repetition is counted against

    def adjust(self, logits: Tensor, num_written: int, rows: list[int]) -> Tensor:
        """(R, V) float32 logits of these rows with penalties; what may not be written is -inf."""
        logits = logits.float()
        penalty = self.rules.repetition_penalty
        if penalty != 1.0:
            for place, row in enumerate(rows):
                seen = torch.tensor(sorted(set(self.written[row])), device=logits.device)
                values = logits[place, seen]
                logits[place, seen] = torch.where(values > 0, values / penalty, values * penalty)
        logits[:, self.vocabulary.start_id] = -torch.inf
        if num_written < self.rules.min_tokens:
            logits[:, self.vocabulary.end_id] = -torch.inf
        return logits


def _begin(
    head: CaptionHead, memory: Tensor, memory_mask: Tensor, heads: list[list[int]], copies: int
) -> tuple[Stepper, Tensor]:
    """`copies` rows per sample that have read its prompt, and the logits after it.

    heads: start and prompt of each sample, all of one length; read once, whatever the copies.
    """
    stepper = head.stepper(memory, memory_mask)
    logits = stepper.read(torch.tensor(heads, device=memory.device))
    if copies > 1:
        rows = torch.arange(len(memory), device=memory.device).repeat_interleave(copies)
        stepper.take(rows)
        logits = logits[rows]
    return stepper, logits


def rows(
    head: CaptionHead,
    memory: Tensor,
    memory_mask: Tensor,
    vocabulary: Vocabulary,
    heads: list[list[int]],
    rules: Rules,
    max_tokens: int,
) -> list[list[list[int]]]:
    """Greedy or sampled: num_captions rows per sample, each written independently.

    Returns new token ids, without prompt and end. Rows that ended are no longer computed.
    """
    copies, length = rules.num_captions, len(heads[0])
    stepper, logits = _begin(head, memory, memory_mask, heads, copies)
    writer = _Writer(vocabulary, rules, [list(one) for one in heads for _ in range(copies)])
    uniforms = _uniforms(rules, len(memory), max_tokens) if rules.sampled else None
    at_work = list(range(len(writer.written)))  # of each row of the stepper, whose text it is
    done: set[int] = set()
    ahead: Ahead | None = None  # the stepper, once it has a single row
    for t in range(max_tokens):
        logits = writer.adjust(logits, t, at_work)
        if uniforms is None:
            chosen = largest(logits)
        else:
            chosen = draw(logits, uniforms[at_work, t].to(logits.device), rules)
        for row, token in zip(at_work, chosen.tolist(), strict=True):
            if token == vocabulary.end_id:
                done.add(row)
            elif row not in done:
                writer.written[row].append(token)
        left = [place for place, row in enumerate(at_work) if row not in done]
        if not left or t + 1 == max_tokens:
            break
        if len(left) <= (1 - _ENDED) * len(at_work):
            kept = torch.tensor(left, device=chosen.device)
            stepper.take(kept)
            chosen, at_work = chosen[kept], [at_work[place] for place in left]
        if len(at_work) == 1 and vocabulary.guesses is not None:
            ahead = ahead or Ahead(stepper, vocabulary.guesses)
            logits = ahead.read(writer.written[at_work[0]], max_tokens - t - 1)
        else:
            logits = stepper.read(chosen[:, None])
    texts = [ids[length:] for ids in writer.written]
    return [texts[i : i + copies] for i in range(0, len(texts), copies)]


def largest(logits: Tensor) -> Tensor:
    """The place (R,) of the largest of each row (R, V); of equal ones the first."""
    if logits.device.type != "cpu":
        return logits.argmax(dim=-1)
    # why: numpy's search is vectorised, torch's takes ten times as long for a few rows
    return torch.from_numpy(logits.numpy().argmax(axis=1))


def _uniforms(rules: Rules, batch: int, max_tokens: int) -> Tensor:
    """One number in [0, 1) per row and step; caption j of every sample has the stream (seed, j)."""
    rows = []
    for j in range(rules.num_captions * (batch if rules.seed is None else 1)):
        generator = torch.Generator()
        if rules.seed is None:
            generator.seed()
        else:
            generator.manual_seed((rules.seed * 1_000_003 + j) % 2**63)
        rows.append(torch.stack([torch.rand((), generator=generator) for _ in range(max_tokens)]))
    return torch.stack(rows).repeat(1 if rules.seed is None else batch, 1)


def draw(logits: Tensor, uniforms: Tensor, rules: Rules) -> Tensor:
    """One token (R,) per row of logits (R, V), by temperature, then top-k, then top-p.

    top-p keeps the fewest most likely tokens whose chances sum to at least top_p. A token is where
    the summed chances of the kept ones pass uniforms (R,) in [0, 1).
    """
    chances, order = (
        (logits / rules.temperature).softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    )
    if rules.top_k is not None:
        chances[:, rules.top_k :] = 0
        chances = chances / chances.sum(dim=-1, keepdim=True)
    if rules.top_p is not None:
        before = chances.cumsum(dim=-1) - chances
        chances = chances.masked_fill(before >= rules.top_p, 0)
    total = chances.double().cumsum(dim=-1)
    passed = total > uniforms.double()[:, None] * total[:, -1:]
    return order.gather(1, passed.int().argmax(dim=-1, keepdim=True))[:, 0]


def beams(
    head: CaptionHead,
    memory: Tensor,
    memory_mask: Tensor,
    vocabulary: Vocabulary,
    heads: list[list[int]],
    rules: Rules,
    max_tokens: int,
) -> list[list[list[int]]]:
    """Beam search; a sample is finished when it has num_beams finished texts."""
    width, batch, length = rules.num_beams, len(memory), len(heads[0])
    stepper, logits = _begin(head, memory, memory_mask, heads, width)
    writer = _Writer(vocabulary, rules, [list(one) for one in heads for _ in range(width)])
    every = list(range(batch * width))
    # why: all beams of a sample begin alike, so only the first may be continued in the first step
    scores = torch.full((batch, width), -torch.inf, device=logits.device)
    scores[:, 0] = 0
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(batch)]

    def finish(sample: int, score: float, ids: list[int], count: int) -> None:
        if score > -torch.inf:
            finished[sample].append((score / max(count, 1) ** rules.length_penalty, ids))

    for t in range(max_tokens):
        log_p = writer.adjust(logits, t, every).log_softmax(dim=-1)
        size = log_p.shape[-1]
        sums = (scores[:, :, None] + log_p.view(batch, width, size)).flatten(1)
        # why: twice the beams, since up to `width` of the best may be ends
        best, where = sums.topk(min(2 * width, sums.shape[1]), dim=-1)
        parents, tokens, kept = [], [], []
        for sample in range(batch):
            live: list[tuple[int, int, float]] = []
            for rank, (score, index) in enumerate(
                zip(best[sample].tolist(), where[sample].tolist(), strict=True)
            ):
                row, token = sample * width + index // size, index % size
                if token == vocabulary.end_id:
                    if rank < width and len(finished[sample]) < width:
                        finish(sample, score, writer.written[row][length:], t + 1)
                elif len(live) < width:
                    live.append((row, token, score))
            for row, token, score in live:
                parents.append(row)
                tokens.append(token)
                kept.append(score)
        writer.written = [[*writer.written[p], tok] for p, tok in zip(parents, tokens, strict=True)]
        scores = torch.tensor(kept, device=logits.device).view(batch, width)
        if all(len(texts) >= width for texts in finished) or t + 1 == max_tokens:
            break
        stepper.reorder(torch.tensor(parents, device=logits.device))
        logits = stepper.read(torch.tensor(tokens, device=logits.device)[:, None])
    for sample in range(batch):
        if len(finished[sample]) < width:
            for beam, score in enumerate(scores[sample].tolist()):
                ids = writer.written[sample * width + beam][length:]
                finish(sample, score, ids, len(ids))
    ranked = [sorted(texts, key=lambda text: -text[0]) for texts in finished]
    return [[ids for _, ids in texts[: rules.num_captions]] for texts in ranked]
