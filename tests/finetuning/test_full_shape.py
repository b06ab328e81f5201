"""A published architecture at its own size, random weights: it runs, and says what it takes."""

import resource
import time

import pytest

import mmfm
from tests.finetuning.conftest import QUICK


@pytest.mark.slow
@pytest.mark.parametrize("train", ["heads", "blocks:1"])
@pytest.mark.filterwarnings("ignore:.*random weights")
def test_vit_b_32(train, folder, tmp_path):
    lines = []
    start, used = time.monotonic(), time.process_time()
    report = mmfm.finetune(
        "open_clip:ViT-B-32/random", images=folder, output=tmp_path / "new", train=train,
        say=lines.append, **{**QUICK, "steps": 2},
    )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    used, took = time.process_time() - used, time.monotonic() - start
    print(f"\nViT-B-32, {train}: {took:.0f} s, {used:.0f} of a processor, {peak:.1f} GiB at most; "
          f"planned {60 * report.plan['minutes']:.0f} s")  # fmt: skip
    print("\n".join(lines + report.lines()))
    tuned = mmfm.load(tmp_path / "new", device="cpu")
    assert tuned.can_caption and tuned.generate("a red ellipse", seed=0)[0].size == (224, 224)
