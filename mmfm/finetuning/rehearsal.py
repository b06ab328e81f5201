"""Pictures that the model draws of words that it knows, for it to practise beside the new ones.

Few original pictures say little of all that a model knew. Its own drawings say more (generative
replay, 1705.08690): of a drawing, what the model sees and says before it learns is right by
definition, whatever the drawing shows, and that is what the towers and the heads are held to.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence

from mmfm.data.sample import Sample
from mmfm.finetuning.pictures import Pictures
from mmfm.model import MMFM

_AT_ONCE = 64


def drawn(model: MMFM, words: Sequence[str], count: int, seed: int = 0) -> Pictures:
    """`count` pictures of words drawn from `words`; each with what the model says of it.

    In the few-step mode where there is one. The same bits every time, so that a run can go on.
    """
    chosen = random.Random(seed).choices(words, k=count)
    how = {"sampler": "few"} if model.config.decoder.few_steps else {}
    samples = []
    for start in range(0, count, _AT_ONCE):
        prompts = chosen[start : start + _AT_ONCE]
        images = model.generate(prompts, seed=seed + start, precision="fp32", **how)
        for image, said in zip(images, model.caption(images)):
            file = io.BytesIO()
            image.save(file, "PNG")
            samples.append(Sample(f"drawn-{len(samples)}", file.getvalue(), (said,), {}))
    return Pictures.of(samples, model.preprocess)
