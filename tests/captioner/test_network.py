import pytest
import torch
import torch.nn.functional as F

from mmfm.captioner import Captioner, decode, encode_batch, random_ports
from mmfm.captioner.network import add_noise
from mmfm.errors import InputError
from mmfm.shapes import Embeddings


def select(embeddings, rows):
    return Embeddings(embeddings.pooled[rows], embeddings.tokens[rows], embeddings.mask[rows])


def test_a_token_sees_only_earlier_ones(network, embeddings):
    memory, mask = network.memory(embeddings)
    ids = torch.randint(0, network.config.vocab_size, (8, 10))
    changed = ids.clone()
    changed[:, 6:] = 3
    before, after = network(ids, memory, mask), network(changed, memory, mask)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_loss_equals_a_naive_loop(network, embeddings, vocabulary, texts):
    prompts = ["", "a", "keywords:", "", "", "a b c", "", "a"]
    ids, target_mask = encode_batch(vocabulary, prompts, texts, 20)
    total, count = 0.0, 0
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        row = [vocabulary.start_id, *vocabulary.encode(prompt)]
        first = len(row)
        row += [*vocabulary.encode(text), vocabulary.end_id]
        memory, mask = network.memory(select(embeddings, [i]))
        log_p = network(torch.tensor([row]), memory, mask)[0].log_softmax(-1)
        for t in range(first, len(row)):
            total -= log_p[t - 1, row[t]].item()
            count += 1
    assert int(target_mask.sum()) == count
    assert network.loss(embeddings, ids, target_mask).item() == pytest.approx(total / count, 1e-4)


def test_masked_grid_tokens_change_nothing(network, embeddings):
    tokens = embeddings.tokens.clone()
    tokens[1::2, -1] = 99.0
    ids = torch.randint(0, network.config.vocab_size, (8, 4))
    changed = Embeddings(embeddings.pooled, tokens, embeddings.mask)
    torch.testing.assert_close(
        network(ids, *network.memory(embeddings)), network(ids, *network.memory(changed))
    )


def test_closing_ports_by_sample_equals_closing_them_for_all(network, embeddings):
    ids = torch.randint(0, network.config.vocab_size, (8, 4))
    grid_open = torch.arange(8) % 2 == 0
    pooled_open = torch.arange(8) % 3 > 0
    pooled_open |= ~grid_open
    mixed = network(ids, *network.memory(embeddings, grid_open=grid_open, pooled_open=pooled_open))
    both = network(ids, *network.memory(embeddings))
    pooled = network(ids, *network.memory(embeddings, use_grid=False))
    bare = network(ids, *network.memory(Embeddings(embeddings.pooled)))
    grid = network(ids, *network.memory(embeddings, use_pooled=False))
    torch.testing.assert_close(bare, pooled)
    for i in range(8):
        expected = pooled if not grid_open[i] else both if pooled_open[i] else grid
        torch.testing.assert_close(mixed[i], expected[i], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(both, pooled, atol=1e-2)
    assert not torch.allclose(both, grid, atol=1e-2)


def test_all_ports_closed_is_refused(network, embeddings):
    closed = torch.zeros(8, dtype=torch.bool)
    for ports in (
        {"use_grid": False, "use_pooled": False},
        {"grid_open": closed, "pooled_open": closed},
        {"use_pooled": False, "grid_open": closed},
    ):
        with pytest.raises(InputError, match="open port"):
            network.memory(embeddings, **ports)
    with pytest.raises(InputError, match="open port"):
        network.memory(Embeddings(embeddings.pooled), use_pooled=False)


def test_random_ports_keep_one_open_at_the_stated_rates():
    grid, pooled = random_ports(20_000, 0.3, 0.5, torch.Generator().manual_seed(0))
    assert bool((grid | pooled).all())
    assert 1 - grid.float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert 1 - pooled[grid].float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_noise_keeps_unit_length_and_zero_noise_keeps_the_vector(embeddings):
    generator = torch.Generator().manual_seed(0)
    stds = torch.tensor([0.0] * 4 + [0.3] * 4)
    noisy = add_noise(embeddings.pooled, stds, generator)
    torch.testing.assert_close(noisy.norm(dim=-1), torch.ones(8))
    torch.testing.assert_close(noisy[:4], embeddings.pooled[:4])
    assert bool(((noisy[4:] * embeddings.pooled[4:]).sum(-1) < 0.95).all())
    assert add_noise(embeddings.pooled, 0.0) is embeddings.pooled


def test_overlong_sequences_are_refused(network, embeddings):
    with pytest.raises(InputError, match="21 tokens"):
        network(torch.zeros(8, 21, dtype=torch.long), *network.memory(embeddings))


def test_a_fresh_network_guesses_evenly(network, embeddings, vocabulary, texts):
    fresh = Captioner(network.config)
    loss = fresh.loss(embeddings, *encode_batch(vocabulary, [""] * 8, texts, 20)).item()
    assert loss == pytest.approx(torch.tensor(len(vocabulary)).log().item(), abs=0.3)


def test_bf16_autocast_gives_a_float32_loss_and_finite_gradients(
    network, embeddings, vocabulary, texts
):
    ids, target_mask = encode_batch(vocabulary, [""] * 8, texts, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network.loss(embeddings, ids, target_mask, pooled_noise=0.1)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters())


def test_eight_captions_are_learned_by_either_port(network, embeddings, vocabulary, texts):
    torch.manual_seed(0)
    learner = Captioner(network.config)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3, weight_decay=0.0)
    prompts = ["", "", "", "", "a", "a", "keywords:", "keywords:"]
    ids, target_mask = encode_batch(vocabulary, prompts, texts, 20)
    for _ in range(150):
        grid_open, pooled_open = random_ports(8, 0.3, 0.4)
        loss = learner.loss(
            embeddings, ids, target_mask, grid_open=grid_open, pooled_open=pooled_open
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    for ports in ({}, {"use_grid": False}, {"use_pooled": False}):
        memory, mask = learner.memory(embeddings, **ports)
        for prompt in ("", "a", "keywords:"):
            rows = [i for i, p in enumerate(prompts) if p == prompt]
            captions = decode(learner, memory[rows], mask[rows], vocabulary, prompt=prompt)
            assert [c for (c,) in captions] == [f"{prompt} {texts[i]}".strip() for i in rows]
    assert F.cosine_similarity(embeddings.pooled[0], embeddings.pooled[1], dim=0) < 0.9
