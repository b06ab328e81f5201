"""Texts: nothing empty, nothing cut in silence."""

import warnings

import pytest
from open_clip.tokenizer import SimpleTokenizer

from mmfm.errors import TextError
from mmfm.preprocess.text import check_texts, truncate_check, word_reader


def test_one_or_many():
    assert check_texts("a cat") == ["a cat"]
    assert check_texts(["a cat", " a dog "]) == ["a cat", " a dog "]
    assert check_texts(text for text in ("x",)) == ["x"]


@pytest.mark.parametrize(
    "texts", [[], "", "  \n", ["a", ""], [1], 1, None, b"bytes", ["a", None], "\ud83d"]
)
def test_refused(texts):
    with pytest.raises(TextError):
        check_texts(texts)


def test_blank_texts_pass_where_they_may():
    assert check_texts(["", " ", "a"], blank=True) == ["", " ", "a"]
    for texts in ([], [None], ["a", "\udc00"]):
        with pytest.raises(TextError):
            check_texts(texts, blank=True)


def test_the_place_of_a_bad_text_is_named():
    with pytest.raises(TextError, match="Text 1 of 3"):
        check_texts(["a", "", "b"])


@pytest.fixture(scope="module")
def tokenizer():
    return SimpleTokenizer()


def test_short_texts_pass_in_silence(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        truncate_check(tokenizer, ["a cat", "a b c d e f"], 8, "warn")
        truncate_check(tokenizer, ["a b c d e f"], 8, "error")


def test_the_cut_part_is_shown(tokenizer):
    with pytest.warns(UserWarning, match=r"\"zebra\".*1 of 2"):
        truncate_check(tokenizer, ["a b c d e f zebra", "a cat"], 8)
    with pytest.raises(TextError, match="zebra"):
        truncate_check(tokenizer, ["a b c d e f zebra"], 8, "error")


def test_the_room_is_what_the_tokenizer_keeps(tokenizer):
    text = "one two three four five six seven"
    kept = tokenizer([text], context_length=8)[0].tolist()
    assert kept[1:-1] == tokenizer.encode(text)[:6]


def test_an_unknown_policy_is_refused(tokenizer):
    with pytest.raises(TextError, match="warn"):
        truncate_check(tokenizer, ["a"], 8, "silent")


def test_only_texts_in_doubt_need_be_given(tokenizer):
    with pytest.warns(UserWarning, match="1 of 9 texts"):
        truncate_check(tokenizer, ["a b c d e f zebra"], 8, total=9)


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """open_clip's wrapper of a small tokenizer of words, with one mark at the end."""
    from open_clip.tokenizer import HFTokenizer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "</s>", "<unk>", "a", "red", "tree", "zebra"]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    folder = tmp_path_factory.mktemp("words")
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return HFTokenizer(str(folder), context_length=6)


def test_a_hugging_face_tokenizer_tells_what_is_cut_too(hugging_face):
    words, marks = word_reader(hugging_face)
    assert marks == 1
    text = "a red tree a red"  # five words and a mark: all that there is room for
    assert hugging_face([text])[0].tolist()[:5] == words.encode(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        truncate_check(words, [text], 6, marks=marks)
    with pytest.warns(UserWarning, match="has 6 tokens, 5 are read, this is cut off: .zebra"):
        truncate_check(words, [f"{text} zebra"], 6, marks=marks)


def test_of_an_unknown_tokenizer_nothing_is_said():
    assert word_reader(object()) is None
    assert word_reader(SimpleTokenizer())[1] == 2
