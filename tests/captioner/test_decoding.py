import pytest
import torch

from mmfm.captioner import decode, encode_batch, score
from mmfm.captioner.decoding import score_texts
from mmfm.captioner.search import Rules, beams, draw, rows
from mmfm.errors import InputError, TextError
from mmfm.shapes import Embeddings


def rules(**changes):
    defaults = {
        "num_beams": 1,
        "top_p": None,
        "top_k": None,
        "temperature": 1.0,
        "num_captions": 1,
        "max_tokens": 12,
        "min_tokens": 0,
        "repetition_penalty": 1.0,
        "length_penalty": 1.0,
        "seed": 0,
    }
    return Rules(**(defaults | changes))


def search(find, network, memory, vocabulary, head, how, max_tokens):
    return find(network, *memory, vocabulary, [head] * len(memory[0]), how, max_tokens)


@pytest.fixture
def memory(network, embeddings):
    return network.memory(embeddings)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_one_beam_equals_greedy(network, memory, vocabulary, length_penalty):
    # why: some end-token logit is raised, so that captions of several lengths are compared
    with torch.no_grad():
        network.token_embedding.weight[vocabulary.end_id] *= 2.5
    head = [vocabulary.start_id, 7]
    same = rules(length_penalty=length_penalty)
    greedy = search(rows, network, memory, vocabulary, head, same, 12)
    assert search(beams, network, memory, vocabulary, head, same, 12) == greedy
    assert len({len(ids) for (ids,) in greedy}) > 1


def test_greedy_equals_argmax_of_plain_forward(network, memory, vocabulary):
    captions = decode(network, *memory, vocabulary, max_tokens=8)
    ids = torch.full((8, 1), vocabulary.start_id)
    for _ in range(8):
        logits = network(ids, *memory)[:, -1]
        logits[:, vocabulary.start_id] = -torch.inf
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    for (caption,), row in zip(captions, ids.tolist(), strict=True):
        row = row[1 : row.index(vocabulary.end_id)] if vocabulary.end_id in row else row[1:]
        assert caption == vocabulary.decode(row)


def test_beams_find_the_best_of_all_short_texts(network, memory, vocabulary):
    """With as many beams as tokens, two steps of beam search are exhaustive."""
    memory, mask = memory[0][:1], memory[1][:1]
    width = len(vocabulary)
    head = [vocabulary.start_id]
    how = rules(num_beams=width, min_tokens=2)
    found = search(beams, network, (memory, mask), vocabulary, head, how, 2)[0][0]
    first = network(torch.tensor([head]), memory, mask)[0, -1].float()
    first[[vocabulary.start_id, vocabulary.end_id]] = -torch.inf
    first = first.log_softmax(-1)
    pairs = torch.stack([torch.full((width,), vocabulary.start_id), torch.arange(width)], 1)
    second = network(pairs, memory.expand(width, -1, -1), mask.expand(width, -1))[:, -1].float()
    second[:, [vocabulary.start_id, vocabulary.end_id]] = -torch.inf
    best = (first[:, None] + second.log_softmax(-1)).flatten().argmax().item()
    assert found == [best // width, best % width]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"num_beams": 3, "num_captions": 2},
        {"top_p": 0.9, "seed": 3},
        {"num_captions": 3, "seed": 3, "temperature": 0.7},
        {"repetition_penalty": 1.5, "min_tokens": 3},
    ],
)
def test_batch_mates_change_nothing(network, embeddings, vocabulary, how):
    together = decode(network, *network.memory(embeddings), vocabulary, prompt="red", **how)
    order = torch.tensor([3, 0, 6])
    some = Embeddings(embeddings.pooled[order], embeddings.tokens[order], embeddings.mask[order])
    apart = decode(network, *network.memory(some), vocabulary, prompt="red", **how)
    assert apart == [together[i] for i in order]


@pytest.mark.parametrize("prompt", ["red", "Keywords:", "a  Photo of", "日本", "12"])
def test_captions_begin_with_the_prompt_as_typed(network, memory, vocabulary, prompt):
    for how in ({}, {"num_beams": 2}, {"top_k": 5, "seed": 0}):
        for (caption,) in decode(network, *memory, vocabulary, prompt=prompt, max_tokens=4, **how):
            assert caption.startswith(prompt)


def test_seeds_repeat_and_differ(network, memory, vocabulary):
    one = decode(network, *memory, vocabulary, num_captions=3, seed=1)
    assert decode(network, *memory, vocabulary, num_captions=3, seed=1) == one
    assert decode(network, *memory, vocabulary, num_captions=3, seed=2) != one
    first = decode(network, *memory, vocabulary, num_captions=2, seed=1)
    assert first == [captions[:2] for captions in one]
    fresh = [decode(network, *memory, vocabulary, num_captions=3) for _ in range(2)]
    assert fresh[0] != fresh[1]


def test_lengths_are_held(network, memory, vocabulary):
    with torch.no_grad():
        network.token_embedding.weight[vocabulary.end_id] *= 5
    head = [vocabulary.start_id]
    for find, width in ((rows, 1), (beams, 3)):
        how, longer = rules(num_beams=width), rules(num_beams=width, min_tokens=5)
        short = search(find, network, memory, vocabulary, head, how, 9)
        long = search(find, network, memory, vocabulary, head, longer, 9)
        assert min(len(ids) for (ids,) in short) < 5
        assert all(5 <= len(ids) <= 9 for (ids,) in long)


def test_a_strong_repetition_penalty_forbids_repeats(network, memory, vocabulary):
    with torch.no_grad():
        network.positions.zero_()  # why: without positions a tiny network repeats itself
    head = [vocabulary.start_id]

    def repeats(penalty):
        how = rules(repetition_penalty=penalty)
        found = search(rows, network, memory, vocabulary, head, how, 12)
        return sum(len(ids) - len(set(ids)) for (ids,) in found)

    assert repeats(1.0) > 0
    assert repeats(50.0) == 0


def test_draw_follows_the_chances_and_the_cuts():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[[2, 0, 3, 1]]  # tokens 1 3 0 2 by rank
    uniforms = (torch.arange(1000) + 0.5) / 1000
    many = logits.expand(1000, -1)

    def shares(**how):
        return (draw(many.clone(), uniforms, rules(**how)).bincount(minlength=4) / 1000).tolist()

    assert shares(num_captions=2) == pytest.approx([0.15, 0.5, 0.05, 0.3], abs=0.002)
    assert shares(top_k=2) == pytest.approx([0, 0.625, 0, 0.375], abs=0.002)
    assert shares(top_p=0.7) == pytest.approx([0, 0.625, 0, 0.375], abs=0.002)
    assert shares(top_p=0.4) == [0, 1, 0, 0]
    assert shares(top_k=1) == [0, 1, 0, 0]
    squared = [0.15**2, 0.25, 0.05**2, 0.09]
    expected = [x / sum(squared) for x in squared]
    assert shares(temperature=0.5) == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize(
    "how",
    [
        {"num_beams": 0},
        {"num_captions": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": 0},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"repetition_penalty": 0.0},
        {"max_tokens": 0},
        {"min_tokens": 30},
        {"num_beams": 2, "top_p": 0.5},
        {"num_beams": 2, "num_captions": 3},
        {"prompt": "word " * 30},
        {"prompt": None},
    ],
)
def test_wrong_values_are_refused_in_one_sentence(network, memory, vocabulary, how):
    with pytest.raises(InputError) as caught:
        decode(network, *memory, vocabulary, **how)
    assert "\n" not in str(caught.value)


def test_each_image_can_have_its_own_prompt(network, memory, vocabulary):
    """Prompts of different lengths, each decoded as if it were alone."""
    prompts = ["", "red", "a b c", "red", "green apple", "", "12", "red"]
    for how in ({}, {"num_beams": 3}, {"num_captions": 2, "seed": 4}):
        together = decode(network, *memory, vocabulary, prompt=prompts, **how)
        for i, prompt in enumerate(prompts):
            one = (part[i : i + 1] for part in memory)
            assert decode(network, *one, vocabulary, prompt=prompt, **how) == together[i : i + 1]
    with pytest.raises(InputError, match="2 prompts for 8 images"):
        decode(network, *memory, vocabulary, prompt=["a", "b"])


def test_no_images_give_no_captions(network, memory, vocabulary):
    assert decode(network, memory[0][:0], memory[1][:0], vocabulary) == []


@pytest.mark.parametrize("prompt", ["", "green"])
def test_score_is_the_mean_log_p_of_plain_forward(network, memory, vocabulary, texts, prompt):
    scores = score(network, *memory, vocabulary, texts, prompt=prompt)
    for i, text in enumerate(texts):
        ids, target_mask = encode_batch(vocabulary, [prompt], [text], 20)
        log_p = network(ids, memory[0][i : i + 1], memory[1][i : i + 1])[0].log_softmax(-1)
        terms = [log_p[t, ids[0, t + 1]].item() for t in target_mask[0].nonzero()[:, 0].tolist()]
        assert scores[i].item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)
        assert len(terms) == len(vocabulary.encode(text)) + 1


def test_all_texts_of_one_image_are_scored_as_alone(network, memory, vocabulary, texts):
    found = score_texts(network, memory[0][1], memory[1][1], vocabulary, texts, batch_size=3)
    for text, one in zip(texts, found, strict=True):
        alone = score(network, memory[0][1:2], memory[1][1:2], vocabulary, [text])
        assert one.item() == pytest.approx(alone.item(), rel=1e-4)


def test_score_refuses_what_it_cannot_read(network, memory, vocabulary):
    with pytest.raises(InputError, match="2 texts for 8 images"):
        score(network, *memory, vocabulary, ["a", "b"])
    with pytest.raises(TextError, match="no words"):
        score(network, *memory, vocabulary, [""] * 8)
    with pytest.raises(TextError, match="at most 18"):
        score(network, *memory, vocabulary, ["word " * 10] * 8)
