"""Rows of the text tower for words that nobody has read yet."""

import numpy as np
import pytest
import torch

from mmfm.captioner.network import Captioner
from mmfm.captioner.vocabulary import Vocabulary, encode_batch
from mmfm.encoders.backbone import Backbone
from mmfm.finetuning.looking import read
from mmfm.finetuning.new_words import (
    NewWords,
    NewWordsTask,
    known_pieces,
    new_pieces,
    strange_beginnings,
)
from mmfm.finetuning.original import known_words
from mmfm.presets import preset
from mmfm.shapes import Embeddings
from mmfm.training.seen import SeenInMemory, SeenViews

KNOWN = ["a red circle", "a drawing of a dog", "b"]
CAPTIONS = [("zorb",), ("a red zorb", "dog"), ("a wug",), ("a wug on a dog",), ("a red circle",),
            ("a zeppelin",)]  # fmt: skip


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return Backbone.from_config(preset("tiny").backbone).eval().requires_grad_(False)


def vectors(count, seed):
    drawn = torch.randn(count, 32, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1)


@pytest.fixture
def ids(backbone):
    return new_pieces(backbone, CAPTIONS, known_pieces(backbone, None, KNOWN))


def task_of(backbone, ids, held_out=()):
    """Two views of each picture; the pictures of a word look alike."""
    words = torch.tensor([0, 0, 1, 1, 2, 3])
    views = [SeenInMemory(vectors(4, 0)[words], None), SeenInMemory(vectors(4, 0)[words], None)]
    return NewWordsTask(backbone, ids, SeenViews(views), CAPTIONS,
                        (vectors(len(held_out), 9), list(held_out)))  # fmt: skip


def test_new_pieces_are_said_twice_and_of_no_known_text(backbone, ids):
    assert {backbone.tokenizer.decoder[i] for i in ids} == {"wu", "g</w>", "zor"}
    every = known_pieces(backbone, None, [*KNOWN, "zorb", "wug"])
    assert new_pieces(backbone, CAPTIONS, every) == []
    assert new_pieces(backbone, CAPTIONS, set()) == []  # where nothing is known all would be new


def test_what_the_caption_head_has_is_known(tiny_model):
    words = tiny_model.vocabulary
    known = known_pieces(tiny_model.backbone, words, ["zorb"])
    assert known == {*words.token_ids, *words.tokenizer.encode("zorb")}


def test_a_word_is_known_whole(tiny_model):
    words = known_words(tiny_model.vocabulary, ["a red circle"])
    encode = tiny_model.vocabulary.tokenizer.encode
    assert "a red circle" in words and "circle" in words
    assert all(len(encode(word)) == 1 for word in words[1:])


def test_fresh_rows_are_the_tower(backbone, ids):
    texts = [text for said in CAPTIONS for text in said]
    assert torch.equal(NewWords(backbone, ids).read(backbone, texts), read(backbone, texts))


def test_captions_come_to_their_pictures_and_other_texts_stay(backbone, ids):
    task, untouched = task_of(backbone, ids), [*KNOWN, "a zeppelin", "a red circle on a dog"]
    assert task.visits.tolist() == [1, 1, 1, 1, 0, 0]
    before = read(backbone, untouched)
    was = task.evaluate(task.module)[0]["held_out_cosine"]
    learner = torch.optim.Adam(task.module.parameters(), 0.05)
    for step in range(200):
        loss, _ = task.loss(np.arange(4), torch.Generator().manual_seed(step))
        learner.zero_grad()
        loss.backward()
        learner.step()
    now = task.evaluate(task.module)[0]["held_out_cosine"]
    assert now > max(0.6, was + 0.3)
    said = task.module.read(backbone, ["zorb", "a wug"])
    task.module.write(backbone)
    assert torch.equal(read(backbone, ["zorb", "a wug"]), said)
    assert torch.equal(read(backbone, untouched), before)  # bit by bit


def test_the_hold_out_is_asked_where_it_has_the_word(backbone, ids):
    task = task_of(backbone, ids, held_out=[("a dog",), ("a zorb",)])
    own = (read(backbone, ["a zorb"]) * vectors(2, 9)[1]).sum().item()
    assert task.evaluate(task.module)[0]["held_out_cosine"] == pytest.approx(own, abs=1e-4)


def test_words_that_the_head_would_not_spell_are_strange(backbone):
    words = Vocabulary.build(["keycap", "fep", "a dog"], backbone.tokenizer)
    torch.manual_seed(0)
    head = Captioner(preset("tiny", caption_vocab_size=len(words)).captioner)
    seen = Embeddings(vectors(4, 1), torch.randn(4, 16, 32))
    ids, target = encode_batch(words, ["", ""], ["keycap", "a dog"], 12)
    learner = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(60):
        loss = head.loss(seen.take([0, 1]), ids, target)
        learner.zero_grad()
        loss.backward()
        learner.step()
    # "dog" is one token, "c3po" no word, the beginning of "xfep" one letter, "zeppelin" not spelled
    said = [("a keycap", "fep"), ("dog c3po", "xfep"), ("zeppelin",)]
    found = strange_beginnings(head.eval(), words, seen, said)
    assert [backbone.tokenizer.decoder[i] for i in found] == ["fe"]
    assert not strange_beginnings(head, words, seen, [("a keycap dog",)])
