"""Old and new weights mixed."""

import pytest
import torch
from torch import nn

from mmfm.finetuning.mixing import choose, little_lost, mix


@pytest.fixture
def ends():
    torch.manual_seed(0)
    old, new = nn.Linear(3, 2), nn.Linear(3, 2)
    return old.state_dict(), new.state_dict()


def test_the_ends_are_the_old_and_the_new_weights(ends):
    old, new = ends
    module = nn.Linear(3, 2)
    for share, wanted in ((0.0, old), (1.0, new)):
        mix(module, old, new, share)
        assert all(torch.equal(value, wanted[name]) for name, value in module.state_dict().items())


def chosen(gain, loss, ends, count=10**6):
    """choose() where the hold-out, `count` pictures, gains gain(share), the original loses loss."""
    old, new = ends
    module = nn.Linear(3, 2)
    first, last = old["weight"][0, 0].item(), new["weight"][0, 0].item()

    def measure():
        share = (module.weight[0, 0].item() - first) / (last - first)
        return {"held_out": count, "held_out_mrr": gain(share), "original_mrr": 0.5 - loss(share)}

    share, tries = choose(module, old, new, measure, little_lost({"original_mrr": 0.5}))
    expected = nn.Linear(3, 2)
    mix(expected, old, new, share)
    assert torch.equal(module.weight, expected.weight)
    assert len(tries) == 8
    return share


def test_where_nothing_is_lost_the_best_share_wins(ends):
    assert chosen(lambda s: s, lambda s: 0.0, ends) == 1.0
    assert chosen(lambda s: -abs(s - 0.5), lambda s: 0.0, ends) == 0.5


def test_what_few_pictures_cannot_tell_apart_is_decided_for_learning(ends):
    assert chosen(lambda s: -abs(s - 0.5), lambda s: 0.0, ends, count=3) == 0.7
    assert chosen(lambda s: -abs(s - 0.5), lambda s: 0.016 * s, ends, count=3) == 0.6


def test_no_share_that_loses_too_much(ends):
    assert chosen(lambda s: s, lambda s: 0.016 * s, ends) == 0.6


def test_where_all_lose_the_least_is_lost(ends):
    assert chosen(lambda s: s, lambda s: 0.2 + 0.1 * s, ends) == 0.3


def test_captions_are_chosen_by_the_same_rule():
    tries = [
        {"share": s, "held_out": 10**6, "held_out_f1": s, "original_f1": 0.5 - s / 20}
        for s in (0.3, 0.4, 1.0)
    ]
    assert little_lost({"original_f1": 0.5}, "f1", 0.021)(tries)["share"] == 0.4
    assert little_lost({}, "f1")(tries)["share"] == 1.0
