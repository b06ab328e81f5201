"""Contrastive losses, forward and backward: tiled against open_clip's, which hold every logit.

Same unit vectors, same scale, one thread. Peak memory is what a call adds to a process: logits and
gradients, not the vectors.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks import interleave, report
from benchmarks._memory import can_measure, measure, report_memory

WIDTH = 512
STARTS = {"softmax": (1 / 0.07, None), "sigmoid": (10.0, -10.0)}  # scale, bias: CLIP's, SigLIP's
TOLERANCE = 2e-5  # of the loss, and of a gradient as a share of the largest of its kind


def make(side: str, kind: str, count: int) -> Callable[[], list]:
    """A call that gives the loss and the gradients of images, texts, scale and bias."""
    import torch
    from open_clip.loss import ClipLoss, SigLipLoss
    from torch.nn import functional as F

    from mmfm.training.losses import sigmoid_loss, softmax_loss

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, WIDTH, generator=generator)
    texts = images + 2 * torch.randn(count, WIDTH, generator=generator)
    leaves = [F.normalize(images, dim=1), F.normalize(texts, dim=1)]  # a pair's cosine is 0.45
    leaves += [torch.tensor(value) for value in STARTS[kind] if value is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    loss = {
        ("ours", "softmax"): softmax_loss, ("peer", "softmax"): ClipLoss(),
        ("ours", "sigmoid"): sigmoid_loss, ("peer", "sigmoid"): SigLipLoss(),
    }[side, kind]  # fmt: skip

    def call(rows: int = count) -> list:
        inputs = [leaves[0][:rows], leaves[1][:rows], *leaves[2:]]
        value = loss(*inputs)
        return [value.detach(), *torch.autograd.grad(value, inputs)]

    call(min(64, count))
    return call


def difference(ours: list, theirs: list) -> dict[str, float]:
    """How far the loss, and the gradient that is farthest, are from the peer's, as shares."""
    gaps = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs, strict=True)]
    return {"loss": float(f"{gaps[0]:.2g}"), "gradient": float(f"{max(gaps[1:]):.2g}")}


def main(count: int, rounds: int) -> None:
    for kind, (scale, bias) in STARTS.items():
        start = f"scale {scale:.4g}" + ("" if bias is None else f", bias {bias:g}")
        case = f"{kind}, batch {count:,}, width {WIDTH}, {start}"
        measured = interleave(make("ours", kind, count), make("peer", kind, count), rounds)
        gate = difference(measured.our_output, measured.peer_output)
        equal = max(gate.values()) <= TOLERANCE
        report(
            "contrastive_loss", case, measured, amount=count, unit="pairs", gate=gate, equal=equal
        )
        if can_measure():
            ours, peer = (measure(make, side, kind, count) for side in ("ours", "peer"))
            report_memory(
                "contrastive_loss", case, ours.peak - ours.ready, peer.peak - peer.ready,
                gate=gate, equal=equal,
            )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16384, help="pairs (default: 16384)")
    parser.add_argument("--rounds", type=int, default=2, help="measured rounds (default: 2)")
    parser.add_argument("--model", help="not used: a loss has no model")
    given = parser.parse_args()
    if min(given.batch, given.rounds) < 1:
        parser.error(f"--batch {given.batch} and --rounds {given.rounds}: wanted at least 1 each")
    main(given.batch, given.rounds)
