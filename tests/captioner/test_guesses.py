"""Guesses change how many steps a text takes, and never the text."""

import pytest
import torch

from mmfm.captioner import decode
from mmfm.captioner.guesses import Guesses
from mmfm.captioner.stepper import Stepper

HOW = [
    {},
    {"min_tokens": 9},
    {"max_tokens": 1},
    {"max_tokens": 40},
    {"repetition_penalty": 1.7},
    {"prompt": "red apple"},
    {"top_p": 0.9, "seed": 3},
    {"temperature": 0.7, "seed": 1, "min_tokens": 4},
    {"num_captions": 2, "seed": 5},
]


@pytest.fixture
def memory(network, embeddings, vocabulary):
    # why: ends are likelier, so that some texts are short
    with torch.no_grad():
        network.token_embedding.weight[vocabulary.end_id] *= 2.5
    return network.memory(embeddings)


@pytest.fixture
def steps(monkeypatch):
    """How many tokens each step read."""
    counts = []
    states = Stepper._states

    def counted(self, token_ids):
        counts.append(token_ids.shape[1])
        return states(self, token_ids)

    monkeypatch.setattr(Stepper, "_states", counted)
    return counts


def write(network, memory, vocabulary, guesses, how, rows):
    vocabulary.guesses = guesses
    try:
        return decode(network, *(part[rows] for part in memory), vocabulary, **how)
    finally:
        vocabulary.guesses = None


@pytest.mark.parametrize("how", HOW)
def test_texts_are_those_without_guesses(network, memory, vocabulary, how):
    size = len(vocabulary)
    random = torch.randint(size, (2 * size, 3), generator=torch.Generator().manual_seed(0))
    anything = Guesses([*random.tolist(), *([i, i * 7 % size] for i in range(size))])
    said = [vocabulary.encode(text[0]) for text in decode(network, *memory, vocabulary, **how)]
    its_own = Guesses([text[place : place + 2] for text in said for place in range(len(text) - 1)])
    for rows in ([0], [1], [5], [2, 3, 4]):  # of several rows, the last one left is guessed for
        plain = write(network, memory, vocabulary, None, how, rows)
        for guesses in (anything, its_own):
            assert write(network, memory, vocabulary, guesses, how, rows) == plain


def test_right_guesses_save_steps_and_wrong_ones_cost_none(network, memory, vocabulary, steps):
    how = {"min_tokens": 12, "max_tokens": 12}
    written = write_ids(network, memory, vocabulary)
    right = Guesses([written[place - 2 : place + 1] for place in range(2, len(written))])
    never = vocabulary.encode("thumbs")[0]
    wrong = Guesses([[token, never] for token in range(len(vocabulary))])
    counts = []
    for guesses in (None, right, wrong):
        steps.clear()
        write(network, memory, vocabulary, guesses, how, [0])
        counts.append(len(steps))
    assert counts[0] == 12
    assert counts[1] < 8
    assert counts[2] <= 12
    assert max(steps) == 4  # three guesses were read along


def write_ids(network, memory, vocabulary):
    """12 greedy tokens of the first picture, after the start."""
    ids = [vocabulary.start_id]
    for _ in range(12):
        logits = network(torch.tensor([ids]), *(part[:1] for part in memory))[0, -1]
        logits[[vocabulary.start_id, vocabulary.end_id]] = -torch.inf
        ids.append(int(logits.argmax()))
    return ids


def test_what_mostly_follows_is_guessed():
    start, end = 90, 91
    texts = [[start, 1, 2, 3, end]] * 3 + [[start, 4, 2, 5, 6, end]] * 2 + [[start, 7, end]]
    guesses = Guesses.build(texts, least=0.6, count=2)
    assert guesses.after([start, 1], 3) == [2, 3]  # then it ends
    assert guesses.after([start, 4], 3) == [2, 5, 6]
    assert guesses.after([start, 4], 1) == [2]
    assert guesses.after([8, 2], 3) == [3]  # new together, so by the last
    assert guesses.after([start], 3) == []  # 1 comes in half of the cases
    assert guesses.after([start, 7], 3) == []  # seen once
    assert Guesses(guesses.to_list()).to_list() == guesses.to_list()
    assert Guesses(guesses.to_list()).after([start, 4], 3) == [2, 5, 6]


def test_where_two_tokens_say_otherwise_the_last_is_not_asked():
    guesses = Guesses.build([[0, 1, 2, 9]] * 4 + [[3, 1, 9]] * 2, least=0.5, count=2)
    assert guesses.after([0, 1], 1) == [2]
    assert guesses.after([3, 1], 1) == []
    assert Guesses(guesses.to_list()).after([3, 1], 1) == []
