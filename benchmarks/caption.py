"""Captions from a picture's tokens: our decoding against transformers' `generate` with its cache.

Both sides have the same weights: GPT-2 with cross-attention has the layers of our caption head, so
the head of the model that ships becomes one (`_gpt2.py`), with equal logits. Both begin at the same
memory (what the ports make of drawings of the gallery) and write greedily, once 24 tokens for each
picture, once until each caption has ended. Equal: logits of the same texts to 1e-4, and every
token. tokens: those written, ends included. The last lines are open_clip's CoCa of random weights,
which computes the whole text again for every token, against our step through its layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks import Options, interleave, options, report, versions

BATCHES = (1, 16, 64)
PICTURES = 64  # captioned in every round
MAX_TOKENS = 24
DIFFERENCE = 1e-4  # of any logit


def main(given: Options) -> None:
    import torch

    import mmfm
    from mmfm.cli import gallery

    torch.set_num_threads(1)
    model = mmfm.load(given.folder, device="cpu")
    pictures = [drawing.path for drawing in gallery.read()[:PICTURES]]
    [seen] = model.embedder.see(pictures, batch_size=PICTURES)
    with torch.inference_mode():
        memory, mask = model.captioner.memory(seen)
    for batch in BATCHES:
        for whole in (True, False):
            compare(model, memory, mask, batch, whole, given.rounds)
    for batch in (1, 16):
        compare_coca(given.architecture, batch, given.rounds)


def compare(model, memory, mask, batch: int, whole: bool, rounds: int) -> None:
    """The line of one batch size. whole: every text has MAX_TOKENS, or as many as there is room."""
    import torch

    from benchmarks._gpt2 import generate, write_gpt2
    from mmfm.captioner.search import rows

    head, vocabulary = model.captioner, model.vocabulary
    gpt2 = write_gpt2(head, vocabulary.start_id, vocabulary.end_id)
    parts = list(zip(memory.split(batch), mask.split(batch), strict=True))[: max(1, 16 // batch)]
    room = min(MAX_TOKENS, head.config.max_tokens - 1)
    rules = _greedy(room, room if whole else 0)
    start, end = vocabulary.start_id, vocabulary.end_id

    @torch.inference_mode()
    def ours() -> list[list[int]]:
        return [
            ids
            for part in parts
            for [ids] in rows(head, *part, vocabulary, [[start]] * len(part[0]), rules, room)
        ]

    def peer() -> list[list[int]]:
        written = []
        for part in parts:
            prompt = torch.full((len(part[0]), 1), start)
            for row in generate(gpt2, *part, prompt, room, rules.min_tokens).tolist():
                ended = row.index(end) if end in row else len(row)
                written.append(row[1:ended])
        return written

    measured = interleave(ours, peer, rounds)
    difference = largest_difference(head, gpt2, parts[0], measured.peer_output, start)
    equal = measured.our_output == measured.peer_output and difference <= DIFFERENCE
    tokens = sum(min(len(ids) + 1, room) for ids in measured.our_output)
    length = f"{room} tokens each" if whole else "to their ends"
    report(
        "caption",
        f"{model.name}, greedy, batch {batch}, {len(measured.our_output)} captions, {length}",
        measured, amount=tokens, unit="tokens", gate={"logits": difference}, equal=equal,
        peer_version=versions("transformers"),
    )  # fmt: skip


def _greedy(most: int, least: int) -> Any:
    from mmfm.captioner.search import Rules

    return Rules(
        num_beams=1, top_p=None, top_k=None, temperature=1.0, num_captions=1, max_tokens=most,
        min_tokens=least, repetition_penalty=1.0, length_penalty=1.0, seed=None,
    )  # fmt: skip


def compare_coca(architecture: str, batch: int, rounds: int) -> None:
    """A CoCa of random weights, with the text side of coca_ViT-B-32 unless it is to be "small"."""
    import torch

    from benchmarks import _coca
    from mmfm.captioner.coca import CoCaHead
    from mmfm.captioner.search import rows
    from mmfm.config import BackboneConfig
    from mmfm.encoders.backbone import Backbone

    torch.manual_seed(0)
    width, layers = (64, 1) if architecture == "small" else (512, 12)
    backbone = Backbone.from_config(BackboneConfig(
        model_cfg=_coca.config(width, layers), preprocess_cfg={"size": [64, 64]}
    )).eval()  # fmt: skip
    images, towers = torch.randn(batch, 3, 64, 64), backbone.towers
    # why: open_clip leaves it uninitialised, as trained weights would fill it
    torch.nn.init.normal_(towers.text_decoder.text_projection, std=width**-0.5)
    head = CoCaHead(towers)
    start, end, length = 49406, 49407, MAX_TOKENS
    rules, marks = _greedy(length, length), _Marks(start, end)

    @torch.inference_mode()
    def ours() -> list[list[int]]:
        memory, mask = head.memory(head.see(images))
        found = rows(head, memory, mask, marks, [[start]] * batch, rules, length)
        return [ids for [ids] in found]

    def peer() -> list[list[int]]:
        return [row[1:] for row in _coca.generate(towers, images, start, length).tolist()]

    measured = interleave(ours, peer, rounds)
    with torch.inference_mode():
        ids = torch.tensor([[start, *row] for row in measured.peer_output])
        theirs = towers(images, ids, output_labels=False)["logits"][:, -1]
        logits = head.stepper(*head.memory(head.see(images))).read(ids)
    difference = float((logits - theirs).abs().max())
    equal = measured.our_output == measured.peer_output and difference <= DIFFERENCE
    report(
        "caption",
        f"CoCa, {layers} + {layers} layers of {width}, batch {batch}, {length} tokens each",
        measured, amount=batch * length, unit="tokens", gate={"logits": difference}, equal=equal,
        peer_version=versions("open_clip_torch"),
    )  # fmt: skip


@dataclass(frozen=True)
class _Marks:
    """All that greedy decoding asks of a vocabulary."""

    start_id: int
    end_id: int
    guesses: None = None


def largest_difference(head, gpt2, part, written: list[list[int]], start: int) -> float:
    """Of any logit of the first captions, ours uncached against the peer's."""
    import torch

    memory, mask = part
    length = 1 + min(len(ids) for ids in written[: len(memory)])
    ids = torch.tensor([[start, *one][:length] for one in written[: len(memory)]])
    with torch.inference_mode():
        theirs = gpt2(
            input_ids=ids, encoder_hidden_states=memory, encoder_attention_mask=mask.long()
        ).logits[:, -1]
        stepper = head.stepper(memory, mask)
        for place in range(length):
            logits = stepper.read(ids[:, place : place + 1])
    return float((logits - theirs).abs().max())


if __name__ == "__main__":
    main(options(__doc__, rounds=5))
