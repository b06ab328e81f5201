"""The caption head learns words that its vocabulary lacks, and loses none that it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import torch

from mmfm.captioner.network import Captioner
from mmfm.captioner.vocabulary import Vocabulary

_LEAST = 2  # times that a token must be used to become one of the head's


def grown(
    captioner: Captioner, vocabulary: Vocabulary, texts: Iterable[str]
) -> tuple[Captioner, Vocabulary]:
    """The head with the tokens that `texts` use at least twice; nothing else of it changes.

    A new token starts as the mean of the pieces that it was spelled with until now.
    """
    counts = Counter(bpe for text in texts for bpe in vocabulary.tokenizer.encode(text))
    known = set(vocabulary.token_ids) | set(getattr(vocabulary.tokenizer, "all_special_ids", ()))
    new = sorted(bpe for bpe, count in counts.items() if count >= _LEAST and bpe not in known)
    if not new:
        return captioner, vocabulary
    more = Vocabulary([*vocabulary.token_ids, *new], vocabulary.tokenizer)
    head = Captioner(replace(captioner.config, vocab_size=len(more)))
    state = dict(captioner.state_dict())
    rows = state["token_embedding.weight"]
    start, end = rows[vocabulary.start_id], rows[vocabulary.end_id]
    means = [rows[vocabulary._fall_apart(bpe)].mean(dim=0) for bpe in new]
    grown_rows = torch.cat([rows[: vocabulary.start_id], torch.stack([*means, start, end])])
    head.load_state_dict({**state, "token_embedding.weight": grown_rows})
    return head.to(rows.device), more
