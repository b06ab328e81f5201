"""`--heads prompt`: only what the words of classes mean is learned; no weight of the model changes.

`mmfm.classify.adapt` does the work; here it gets the folder's pictures, the first caption of each
as its class, and what it found becomes a report beside the classifier's head.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmfm.errors import DataError, InputError, OutputError
from mmfm.finetuning.material import Material
from mmfm.finetuning.pictures import Account, Pictures
from mmfm.finetuning.report import FinetuneReport
from mmfm.model import MMFM

HEAD = "head.safetensors"
_MOST = 0.5  # classes for a picture, beyond which captions are no classes


def adapt_prompts(
    model: MMFM, material: Material, account: Account, output: Path, command: str, seed: int
) -> FinetuneReport:
    """Write the head and the report into `output`. Raises DataError where captions are no classes,
    InputError where this version cannot adapt prompts, OutputError.
    """
    adapt = getattr(importlib.import_module("mmfm.classify"), "adapt", None)
    if adapt is None:
        raise InputError("this version cannot adapt prompts; take --heads contrastive")
    start = time.monotonic()
    images, labels = _labelled(material.captioned)
    classes = set(labels)
    if len(classes) < 2 or len(classes) > _MOST * len(labels):
        raise DataError(
            f"{len(labels)} pictures have {len(classes)} different captions; --heads prompt wants "
            "classes, such as sub-folders, with several pictures each: take --heads contrastive"
        )
    rows = [i for i, said in enumerate(material.measured.captions) if said[0] in classes]
    known = material.measured.select(rows)
    figures, head = adapt(model, (images, labels), _labelled(known), seed=seed)
    try:
        output.mkdir(parents=True, exist_ok=True)
        head.save(output / HEAD)
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror}; choose another") from error
    ways, chosen = figures["ways"], figures["chosen"]
    report = FinetuneReport(
        model=output, base=model.name, command=command,
        figures={"held_out": {
            "note": f"{len(known)} held-out pictures of the {len(classes)} classes",
            "before": {"classes": ways["zero-shot"]["hold_out"]},
            "after": {"classes": ways[chosen]["hold_out"]},
        }},
        plan={"pictures": {"to learn from": len(labels), "held out": len(known)}},
        account=asdict(account), told={**figures, "seconds": round(time.monotonic() - start, 1)},
        notes=[f"The way that the examples spoke for: {chosen}.",
               f"The model itself is unchanged: mmfm classify --head {output / HEAD}"],
    )  # fmt: skip
    report.write()
    return report


def _labelled(pictures: Pictures) -> tuple[list[Any], list[str]]:
    return [s.image for s in pictures.samples], [said[0] for said in pictures.captions]
