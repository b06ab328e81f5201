"""Decoding step by step gives the logits of the plain forward pass, whatever became of the rows."""

import pytest
import torch

from mmfm.captioner.stepper import gelu
from mmfm.errors import InputError
from mmfm.shapes import Embeddings

LIKE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture
def ids(network):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, network.config.vocab_size, (8, 20), generator=generator)


@pytest.mark.parametrize("prompt_length", [1, 6, 20])
@pytest.mark.parametrize("masked", [True, False])
def test_cached_logits_equal_uncached(network, embeddings, ids, prompt_length, masked):
    if not masked:
        embeddings = Embeddings(embeddings.pooled, embeddings.tokens)
    memory, mask = network.memory(embeddings)
    stepper = network.stepper(memory, mask)
    stepped = [stepper.read(ids[:, :prompt_length])]
    stepped += [stepper.read(ids[:, t : t + 1]) for t in range(prompt_length, 20)]
    expected = network(ids, memory, mask)[:, prompt_length - 1 :]
    torch.testing.assert_close(torch.stack(stepped, 1), expected, **LIKE)


@pytest.mark.parametrize("pieces", [(1, 3, 1, 15), (4, 2, 14), (20,)])
def test_several_tokens_at_once_are_as_one_after_the_other(network, embeddings, ids, pieces):
    memory, mask = network.memory(embeddings)
    stepper = network.stepper(memory, mask)
    everywhere = torch.ones(ids.shape, dtype=torch.bool)
    read = [
        stepper.logits(part, everywhere[:, : part.shape[1]]).unflatten(0, (len(ids), -1))
        for part in ids.split(pieces, dim=1)
    ]
    torch.testing.assert_close(torch.cat(read, dim=1), network(ids, memory, mask), **LIKE)


def test_what_was_read_can_be_forgotten(network, embeddings, ids):
    memory, mask = network.memory(embeddings)
    stepper = network.stepper(memory, mask)
    stepper.read(ids[:, :12])
    stepper.length = 5
    logits = stepper.read(ids[:, 15:17])
    expected = network(torch.cat([ids[:, :5], ids[:, 15:17]], dim=1), memory, mask)[:, -1]
    torch.testing.assert_close(logits, expected, **LIKE)


def test_rows_that_are_taken_go_on_as_they_were(network, embeddings, ids):
    memory, mask = network.memory(embeddings)
    stepper = network.stepper(memory, mask)
    stepper.read(ids[:, :5])
    rows = torch.tensor([5, 2, 2])
    stepper.take(rows)
    assert len(stepper) == 3
    for t in range(5, 9):
        logits = stepper.read(ids[rows, t : t + 1])
    expected = network(ids[rows, :9], memory[rows], mask[rows])[:, -1]
    torch.testing.assert_close(logits, expected, **LIKE)


def test_beams_of_one_picture_can_change_places(network, embeddings, ids):
    memory, mask = (part[:1].expand(4, *part.shape[1:]) for part in network.memory(embeddings))
    stepper = network.stepper(memory, mask)
    for t in range(4):
        stepper.read(ids[:4, t : t + 1])
    rows = torch.tensor([3, 3, 0, 1])
    stepper.reorder(rows)
    logits = stepper.read(ids[:4, 4:5])
    read = torch.cat([ids[rows, :4], ids[:4, 4:5]], dim=1)
    torch.testing.assert_close(logits, network(read, memory, mask)[:, -1], **LIKE)


def test_weights_that_changed_are_laid_out_again(network, embeddings, ids):
    memory, mask = network.memory(embeddings)
    before = network.stepper(memory, mask).read(ids[:, :1])
    with torch.no_grad():
        network.blocks[0].mlp.fc1.weight.mul_(1.5)
        network.token_embedding.weight[3].add_(1)
    after = network.stepper(memory, mask).read(ids[:, :1])
    assert not torch.allclose(before, after, atol=1e-2)
    torch.testing.assert_close(after, network(ids[:, :1], memory, mask)[:, -1], **LIKE)
    network.load_state_dict({k: v * 0.5 for k, v in network.state_dict().items()})
    halved = network.stepper(memory, mask).read(ids[:, :1])
    torch.testing.assert_close(halved, network(ids[:, :1], memory, mask)[:, -1], **LIKE)


def test_what_does_not_fit_is_refused(network, embeddings, ids):
    stepper = network.stepper(*network.memory(embeddings))
    stepper.read(ids)
    with pytest.raises(InputError, match="21 tokens"):
        stepper.read(ids[:, :1])


def test_gelu_is_the_exact_one():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)) * 3
    exact = torch.nn.functional.gelu(x.double())
    for rows in (1, 3):
        torch.testing.assert_close(gelu(x[:rows]).double(), exact[:rows], atol=1e-6, rtol=1e-5)
        assert gelu(x[:rows]).is_contiguous()
