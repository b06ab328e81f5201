"""BLEU-4 of a set of captions: how many of its words and phrases some reference has.

Papineni et al., ACL 2002: clipped n-gram precisions summed over the corpus, their geometric mean
for n = 1 to 4, and the brevity penalty. Nothing is smoothed: no matching phrase of four words in
the whole set gives 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from mmfm.errors import InputError
from mmfm.evaluation.words import words


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]], longest: int = 4) -> float:
    """Corpus BLEU in [0, 1]; longest: the phrases that count are of 1 to so many words.

    Of several references the length nearest to the candidate's counts, the shorter of two as near.
    Raises InputError when a candidate has no references.
    """
    if len(candidates) != len(references) or not all(references):
        raise InputError(
            f"got {len(candidates)} captions and {len(references)} lists of references; pass one "
            f"list for each caption, none of them empty"
        )
    matched, possible = Counter[int](), Counter[int]()
    ours = theirs = 0
    for candidate, texts in zip(candidates, references, strict=True):
        said, known = words(candidate), [words(text) for text in texts]
        ours += len(said)
        theirs += min((abs(len(one) - len(said)), len(one)) for one in known)[1]
        for n in range(1, longest + 1):
            counts = _phrases(said, n)
            most = Counter[tuple[str, ...]]()
            for one in known:
                most |= _phrases(one, n)
            matched[n] += (counts & most).total()
            possible[n] += counts.total()
    if not all(matched[n] for n in range(1, longest + 1)):
        return 0.0
    logs = sum(math.log(matched[n] / possible[n]) for n in range(1, longest + 1)) / longest
    return math.exp(logs + min(0.0, 1 - theirs / ours))


def _phrases(tokens: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
