"""A caption head that learns new words."""

import torch

from mmfm.finetuning.words import grown


def test_new_words_become_tokens_and_old_ones_stay(tiny_model):
    old, words = tiny_model.captioner, tiny_model.vocabulary
    head, more = grown(old, words, ["a zeppelin"] * 2 + ["a volcano"])
    assert len(more) > len(words)
    assert len(more.encode("zeppelin")) < len(words.encode("zeppelin"))
    assert more.encode("volcano") == words.encode("volcano")  # used once only
    for text in ("a red circle", "zeppelin", "snow"):
        assert more.decode(more.encode(text)) == text
    assert more.to_list()[: len(words) - 2] == words.to_list()
    rows = head.token_embedding.weight, old.token_embedding.weight
    assert torch.equal(rows[0][: words.start_id], rows[1][: words.start_id])
    assert torch.equal(rows[0][-2:], rows[1][-2:])


def test_nothing_new_is_the_same_head(tiny_model):
    head, words = grown(tiny_model.captioner, tiny_model.vocabulary, ["a red circle"])
    assert head is tiny_model.captioner and words is tiny_model.vocabulary
