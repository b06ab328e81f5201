import math

import pytest

from mmfm.errors import InputError
from mmfm.evaluation.bleu import bleu

# The examples of Papineni et al. (ACL 2002), section 2.
PARTY = [
    "It is a guide to action that ensures that the military will forever heed Party commands",
    "It is the guiding principle which guarantees the military forces always being under the "
    "command of the Party",
    "It is the practical guide for the army always to heed the directions of the party",
]
FIRST = (
    "It is a guide to action which ensures that the military always obeys the commands of the party"
)
SECOND = "It is to insure the troops forever hearing the activity guidebook that party direct"


def test_the_papers_precisions():
    """Candidate 1 has 17 of 18 words and 10 of 17 pairs, candidate 2 8 of 14 and 1 of 13."""
    assert bleu([FIRST], [PARTY], 1) == pytest.approx(17 / 18)
    assert bleu([FIRST], [PARTY], 2) == pytest.approx(math.sqrt(17 / 18 * 10 / 17))
    penalty = math.exp(1 - 16 / 14)  # the nearest reference has 16 words
    assert bleu([SECOND], [PARTY], 1) == pytest.approx(8 / 14 * penalty)
    assert bleu([SECOND], [PARTY], 2) == pytest.approx(math.sqrt(8 / 14 * 1 / 13) * penalty)


def test_the_papers_clipping():
    """Seven times "the": two of them count."""
    references = ["The cat is on the mat", "There is a cat on the mat"]
    assert bleu(["the the the the the the the"], [references], 1) == pytest.approx(2 / 7)


def test_the_papers_brevity():
    """ "of the" has perfect precision and must not win: exp(1 - 16 / 2)."""
    assert bleu(["of the"], [PARTY], 1) == pytest.approx(math.exp(1 - 16 / 2))


def test_it_is_of_the_set_and_not_of_each_caption():
    candidates = ["one two three four five", "cat"]
    assert bleu(candidates, [[text] for text in candidates]) == pytest.approx(1)
    assert bleu(["cat"], [["cat"]]) == 0  # no phrase of four words anywhere


def test_wrong_calls_are_refused():
    with pytest.raises(InputError, match="one list for each"):
        bleu(["a"], [])
    with pytest.raises(InputError, match="none of them empty"):
        bleu(["a"], [[]])
