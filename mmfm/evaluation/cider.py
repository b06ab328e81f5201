"""CIDEr-D: do a caption's words and phrases occur in the references, weighted by how rare they are.

Vedantam et al., arXiv:1411.5726; same arithmetic as pycocoevalcap, with our own word splitting
instead of the PTB tokenizer. A caption of fewer than four words has no long phrases to match, so
short captions stay well below 10 even when they are perfect.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from mmfm.errors import InputError
from mmfm.evaluation.words import words

MAX_NGRAM = 4
SIGMA = 6.0  # of the Gaussian penalty on a difference in length, in words


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each candidate against its own references, in [0, 10].

    How rare a phrase is comes from the references themselves, so a figure holds for its data set
    only, and one single image scores 0. Raises InputError when a candidate has no references.
    """
    if len(candidates) != len(references) or not all(references):
        raise InputError(
            f"got {len(candidates)} captions and {len(references)} lists of references; pass one "
            f"list for each caption, none of them empty"
        )
    cooked = [[_ngrams(text) for text in texts] for texts in references]
    frequency = Counter(ngram for texts in cooked for ngram in set().union(*texts))
    log_count = math.log(max(len(references), 1))

    def vector(counts: Counter) -> dict:
        return {g: n * (log_count - math.log(max(1, frequency[g]))) for g, n in counts.items()}

    scores = []
    for candidate, texts in zip(candidates, cooked, strict=True):
        counts = _ngrams(candidate)
        ours, length = vector(counts), _length(counts)
        sims = [_similarity(ours, vector(text), length - _length(text)) for text in texts]
        scores.append(10 * sum(sims) / len(sims))
    return scores


def _ngrams(text: str) -> Counter:
    tokens = words(text)
    return Counter(
        tuple(tokens[i : i + n])
        for n in range(1, MAX_NGRAM + 1)
        for i in range(len(tokens) - n + 1)
    )


def _length(counts: Counter) -> int:
    return sum(n for ngram, n in counts.items() if len(ngram) == 1)


def _similarity(ours: dict, theirs: dict, difference: int) -> float:
    """Clipped cosine, averaged over phrase lengths, times the length penalty."""
    total = 0.0
    for n in range(1, MAX_NGRAM + 1):
        a = {g: x for g, x in ours.items() if len(g) == n}
        b = {g: x for g, x in theirs.items() if len(g) == n}
        norms = math.sqrt(sum(x * x for x in a.values()) * sum(x * x for x in b.values()))
        if norms:
            total += sum(min(x, b[g]) * b[g] for g, x in a.items() if g in b) / norms
    return total / MAX_NGRAM * math.exp(-(difference**2) / (2 * SIGMA**2))
