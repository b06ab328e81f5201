import math

import pytest

from mmfm.errors import InputError
from mmfm.evaluation.cider import cider_d


def test_a_hand_worked_example():
    """Two images; words and phrases of one image only weigh log 2, "a" is in both and weighs 0."""
    scores = cider_d(["a red cat", "a dog"], [["a red cat", "a cat"], ["a dog"]])
    # image 1, reference 1: equal. words, pairs and triples agree: 3 of 4 lengths, no 4-grams.
    # image 1, reference 2 "a cat": words {red, cat} against {cat}: 1 / sqrt 2; pairs {a red, red
    # cat} against {a cat}: 0; one word longer: exp(-1/72).
    second = (1 / math.sqrt(2)) / 4 * math.exp(-1 / 72)
    assert scores[0] == pytest.approx(10 * (0.75 + second) / 2)
    # image 2: words and the pair agree
    assert scores[1] == pytest.approx(10 * 0.5)


def test_repeating_a_word_is_clipped():
    references = [["a cat"], ["a dog"]]
    repeated = cider_d(["a cat cat cat", "a dog"], references)[0]
    # words: cat counts once over the norms 3 log 2 and log 2; pair "a cat": one of {a cat, cat cat
    # twice}: 1 / sqrt(1 + 4 * ...), where "cat cat" is in no reference and weighs log 2
    words = 1 / 3
    pairs = 1 / math.sqrt(1 + 4)
    assert repeated == pytest.approx(10 * (words + pairs) / 4 * math.exp(-4 / 72))


def test_long_perfect_captions_score_ten_and_wrong_ones_nothing():
    texts = ["one two three four five", "six seven eight nine ten"]
    references = [[text] for text in texts]
    assert cider_d(texts, references) == pytest.approx([10, 10])
    assert cider_d(texts[::-1], references) == [0, 0]


def test_wrong_calls_are_refused():
    with pytest.raises(InputError, match="one list for each"):
        cider_d(["a"], [["a"], ["b"]])
    with pytest.raises(InputError, match="none of them empty"):
        cider_d(["a", "b"], [["a"], []])
