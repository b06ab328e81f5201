"""From a memory to words: captions under rules, and the score of a given text.

Every sample decodes on its own random stream: its captions depend on the image and the seed, never
on the batch. Sampling is used when top_p, top_k, a temperature other than 1, or several captions
without beams are asked for; otherwise decoding is greedy (num_beams=1) or by beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmfm.captioner.search import CaptionHead, Rules, beams, rows
from mmfm.captioner.vocabulary import Vocabulary, encode_batch
from mmfm.errors import InputError, TextError


@torch.inference_mode()
def decode(
    head: CaptionHead,
    memory: Tensor,
    memory_mask: Tensor,
    vocabulary: Vocabulary,
    *,
    prompt: str | Sequence[str] = "",
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

    memory, memory_mask: (B, M, E) and (B, M), from `Captioner.memory`. prompt: one for all images,
    or one for each. max_tokens: new tokens at most, fewer where the network has no room. top_p: in
    (0, 1]. seed: the same seed and image give the same captions; None draws new ones.
    repetition_penalty: above 1 makes tokens that were written less likely (CTRL, arXiv:1909.05858).
    length_penalty: a beam's log-likelihood is divided by length ** length_penalty.

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
    each = isinstance(prompt, (list, tuple))
    prompts: list[Any] = list(prompt) if each else [prompt] * len(memory)
    if len(prompts) != len(memory):
        raise InputError(f"got {len(prompts)} prompts for {len(memory)} images; pass one for each")
    heads = {text: [vocabulary.start_id, *vocabulary.encode(text)] for text in set(prompts)}
    lengths = [len(heads[text]) for text in prompts]
    search = beams if num_beams > 1 else rows
    found: list[list[list[int]]] = [[]] * len(memory)
    for length in sorted(set(lengths)):
        alike = [row for row, one in enumerate(lengths) if one == length]
        room = _room(head, length)
        said = search(
            head, memory[alike], memory_mask[alike], vocabulary,
            [heads[prompts[row]] for row in alike], rules, min(max_tokens, room),
        )  # fmt: skip
        for row, captions in zip(alike, said, strict=True):
            found[row] = captions
    return [
        [_join(text, vocabulary.decode(ids)) for ids in captions]
        for text, captions in zip(prompts, found, strict=True)
    ]


def _room(head: CaptionHead, length: int) -> int:
    """New tokens that fit behind start and prompt of `length` tokens; TextError when none do."""
    if length >= head.max_tokens:
        raise TextError(
            f"the prompt takes {length - 1} tokens and the caption head reads at most "
            f"{head.max_tokens - 2}; shorten the prompt"
        )
    return head.max_tokens - length


def _join(prompt: str, text: str) -> str:
    if not text or not prompt or prompt[-1].isspace() or text[0] in ",.:;!?)":
        return prompt + text
    return f"{prompt} {text}"


@torch.inference_mode()
def score(
    head: CaptionHead,
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
    room = head.max_tokens - 2 - len(vocabulary.encode(prompt))
    for text in dict.fromkeys(texts):
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
    ids, target_mask = encode_batch(vocabulary, [prompt] * len(texts), texts, head.max_tokens)
    ids, target_mask = ids.to(memory.device), target_mask[:, :-1].to(memory.device)
    # why: the output layer is the widest; it runs only where a token counts
    logits = head.stepper(memory, memory_mask).logits(ids[:, :-1], target_mask)
    log_p = -F.cross_entropy(logits.float(), ids[:, 1:][target_mask], reduction="none")
    sums = log_p.new_zeros(target_mask.shape).masked_scatter(target_mask, log_p).sum(dim=1)
    return sums / target_mask.sum(dim=1)


def score_texts(
    head: CaptionHead, memory: Tensor, memory_mask: Tensor, vocabulary: Vocabulary,
    texts: list[str], *, prompt: str = "", batch_size: int = 256,
) -> Tensor:  # fmt: skip
    """Mean log p per token (L,) of every text given one image: memory (M, E), mask (M,)."""
    return torch.cat([
        score(
            head, memory.expand(len(part), -1, -1), memory_mask.expand(len(part), -1),
            vocabulary, part, prompt=prompt,
        )
        for part in (texts[i : i + batch_size] for i in range(0, len(texts), batch_size))
    ])  # fmt: skip
