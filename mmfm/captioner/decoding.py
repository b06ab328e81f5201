"""From a memory to words: greedy, beam and sampled decoding, and the score of a given text.

Every sample decodes on its own random stream: its captions depend on the image and the seed, never
on the batch. Sampling is used when top_p, top_k, a temperature other than 1, or several captions
without beams are asked for; otherwise decoding is greedy (num_beams=1) or by beams.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmfm.captioner.network import Cache, Captioner
from mmfm.captioner.vocabulary import Vocabulary, encode_batch
from mmfm.errors import InputError, TextError


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What both searches obey. Lengths count new tokens, without prompt and end."""

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


@torch.inference_mode()
def decode(
    network: Captioner,
    memory: Tensor,
    memory_mask: Tensor,
    vocabulary: Vocabulary,
    *,
    prompt: str = "",
    num_beams: int = 1,
    top_p: float | None = None,
    top_k: int | None = None,
    temperature: float = 1.0,
    num_captions: int = 1,
    max_tokens: int = 24,
    min_tokens: int = 0,
    repetition_penalty: float = 1.0,
    length_penalty: float = 1.0,
    seed: int | None = None,
) -> list[list[str]]:
    """Captions of each image: B lists of num_captions texts, every one beginning with the prompt.

    memory, memory_mask: (B, M, E) and (B, M), from `Captioner.memory`. max_tokens: new tokens at
    most, fewer where the network has no room. top_p: in (0, 1]. seed: the same seed and image give
    the same captions; None draws new ones. repetition_penalty: above 1 makes tokens that were
    written less likely (CTRL, arXiv:1909.05858). length_penalty: a beam's log-likelihood is divided
    by length ** length_penalty.

    Raises InputError on a value out of range, TextError on a prompt that leaves no room.
    """
    rules = Rules(
        num_beams=num_beams,
        top_p=top_p,
        top_k=top_k,
        temperature=temperature,
        num_captions=num_captions,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        repetition_penalty=repetition_penalty,
        length_penalty=length_penalty,
        seed=seed,
    )
    head = [vocabulary.start_id, *vocabulary.encode(prompt)]
    room = network.config.max_tokens - len(head)
    if room < 1:
        raise TextError(
            f"the prompt takes {len(head) - 1} tokens and the caption head reads at most "
            f"{network.config.max_tokens - 2}; shorten the prompt"
        )
    if len(memory) == 0:
        return []
    search = _beams if num_beams > 1 else _rows
    found = search(network, memory, memory_mask, vocabulary, head, rules, min(max_tokens, room))
    return [[_join(prompt, vocabulary.decode(ids)) for ids in captions] for captions in found]


def _join(prompt: str, text: str) -> str:
    if not text or not prompt or prompt[-1].isspace() or text[0] in ",.:;!?)":
        return prompt + text
    return f"{prompt} {text}"


@dataclass
class _Writer:
    """Logits of the next token under the rules that hold for every search."""

    network: Captioner
    vocabulary: Vocabulary
    rules: Rules
    written: list[list[int]]  # per row, prompt included: what a repetition is counted against

    def adjust(self, logits: Tensor, num_written: int) -> Tensor:
        """(R, V) float32 logits with penalties; what may not be written is -inf."""
        logits = logits.float().clone()
        if self.rules.repetition_penalty != 1.0:
            for row, ids in enumerate(self.written):
                seen = torch.tensor(sorted(set(ids)), device=logits.device)
                values = logits[row, seen]
                penalty = self.rules.repetition_penalty
                logits[row, seen] = torch.where(values > 0, values / penalty, values * penalty)
        logits[:, self.vocabulary.start_id] = -torch.inf
        if num_written < self.rules.min_tokens:
            logits[:, self.vocabulary.end_id] = -torch.inf
        return logits


def _begin(
    network: Captioner, memory: Tensor, memory_mask: Tensor, head: list[int], copies: int
) -> tuple[Cache, Tensor]:
    """A cache with `copies` rows per sample that has read the prompt, and the logits after it."""
    memory = memory.repeat_interleave(copies, dim=0)
    cache = network.start(memory, memory_mask.repeat_interleave(copies, dim=0))
    ids = torch.tensor(head, device=memory.device).expand(len(memory), -1)
    return cache, network.step(ids, cache)


def _rows(
    network: Captioner,
    memory: Tensor,
    memory_mask: Tensor,
    vocabulary: Vocabulary,
    head: list[int],
    rules: Rules,
    max_tokens: int,
) -> list[list[list[int]]]:
    """Greedy or sampled: num_captions rows per sample, each written independently."""
    copies = rules.num_captions
    cache, logits = _begin(network, memory, memory_mask, head, copies)
    writer = _Writer(network, vocabulary, rules, [list(head) for _ in logits])
    uniforms = _uniforms(rules, len(memory), max_tokens) if rules.sampled else None
    done = [False] * len(logits)
    for t in range(max_tokens):
        logits = writer.adjust(logits, t)
        if uniforms is None:
            chosen = logits.argmax(dim=-1)
        else:
            chosen = draw(logits, uniforms[:, t].to(logits.device), rules)
        for row, token in enumerate(chosen.tolist()):
            done[row] = done[row] or token == vocabulary.end_id
            if not done[row]:
                writer.written[row].append(token)
        if all(done) or t + 1 == max_tokens:
            break
        logits = network.step(chosen[:, None], cache)
    texts = [ids[len(head) :] for ids in writer.written]
    return [texts[i : i + copies] for i in range(0, len(texts), copies)]


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


def _beams(
    network: Captioner,
    memory: Tensor,
    memory_mask: Tensor,
    vocabulary: Vocabulary,
    head: list[int],
    rules: Rules,
    max_tokens: int,
) -> list[list[list[int]]]:
    """Beam search; a sample is finished when it has num_beams finished texts."""
    width, batch = rules.num_beams, len(memory)
    cache, logits = _begin(network, memory, memory_mask, head, width)
    writer = _Writer(network, vocabulary, rules, [list(head) for _ in logits])
    # why: all beams of a sample begin alike, so only the first may be continued in the first step
    scores = torch.full((batch, width), -torch.inf, device=logits.device)
    scores[:, 0] = 0
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(batch)]

    def finish(sample: int, score: float, ids: list[int], length: int) -> None:
        if score > -torch.inf:
            finished[sample].append((score / max(length, 1) ** rules.length_penalty, ids))

    for t in range(max_tokens):
        log_p = writer.adjust(logits, t).log_softmax(dim=-1)
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
                        finish(sample, score, writer.written[row][len(head) :], t + 1)
                elif len(live) < width:
                    live.append((row, token, score))
            for row, token, score in live:
                parents.append(row)
                tokens.append(token)
                kept.append(score)
        rows = torch.tensor(parents, device=logits.device)
        writer.written = [[*writer.written[p], tok] for p, tok in zip(parents, tokens, strict=True)]
        scores = torch.tensor(kept, device=logits.device).view(batch, width)
        if all(len(texts) >= width for texts in finished) or t + 1 == max_tokens:
            break
        cache.reorder(rows)
        logits = network.step(torch.tensor(tokens, device=logits.device)[:, None], cache)
    for sample in range(batch):
        if len(finished[sample]) < width:
            for beam, score in enumerate(scores[sample].tolist()):
                ids = writer.written[sample * width + beam][len(head) :]
                finish(sample, score, ids, len(ids))
    ranked = [sorted(texts, key=lambda text: -text[0]) for texts in finished]
    return [[ids for _, ids in texts[: rules.num_captions]] for texts in ranked]


@torch.inference_mode()
def score(
    network: Captioner,
    memory: Tensor,
    memory_mask: Tensor,
    vocabulary: Vocabulary,
    texts: list[str],
    *,
    prompt: str = "",
) -> Tensor:
    """Mean log p per token (B,) of texts[i] given row i of the memory, the end token included.

    Raises InputError when there is not one text per image, TextError on a text that is empty or
    longer than the network reads.
    """
    if len(texts) != len(memory):
        raise InputError(f"got {len(texts)} texts for {len(memory)} images; pass one for each")
    room = network.config.max_tokens - 2 - len(vocabulary.encode(prompt))
    for text in texts:
        length = len(vocabulary.encode(text))
        if length == 0:
            raise TextError(f"the text {text!r} has no words to score; pass a caption")
        if length > room:
            raise TextError(
                f"the text {text!r} has {length} tokens, the caption head scores at most {room}; "
                f"shorten it"
            )
    if not texts:
        return memory.new_zeros(0)
    ids, target_mask = encode_batch(
        vocabulary, [prompt] * len(texts), texts, network.config.max_tokens
    )
    ids, target_mask = ids.to(memory.device), target_mask[:, :-1].to(memory.device)
    log_p = network(ids[:, :-1], memory, memory_mask).float().log_softmax(dim=-1)
    log_p = log_p.gather(-1, ids[:, 1:, None])[..., 0] * target_mask
    return log_p.sum(dim=1) / target_mask.sum(dim=1)
