import pytest

from mmfm.evaluation.words import exact_match, token_f1, words


def test_words_drop_case_and_punctuation():
    assert words("T-Shirt: (10)!") == ["t", "shirt", "10"]
    assert words("Ｆｕｌｌ ＳＴＲＡＳＳＥ") == ["full", "strasse"]
    assert words("👩 ... _") == []


def test_exact_match_ignores_case_and_punctuation_but_not_order():
    assert exact_match("Flag: France", ["red apple", "flag france"])
    assert not exact_match("france flag", ["flag: france"])
    assert not exact_match("flag", [])


@pytest.mark.parametrize(
    ("candidate", "references", "expected"),
    [
        ("red apple", ["red apple"], 1),
        ("red apple", ["green apple"], 0.5),
        ("a red apple", ["apple"], 0.5),  # precision 1/3, recall 1
        ("red red apple", ["red apple"], 0.8),  # the second red is not in the reference
        ("red apple", ["bus", "green apple", "apple red"], 1),
        ("", ["apple"], 0),
        ("!", ["?"], 1),
        ("apple", [], 0),
    ],
)
def test_token_f1_worked_examples(candidate, references, expected):
    assert token_f1(candidate, references) == pytest.approx(expected)
