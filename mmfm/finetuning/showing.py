"""What the report shows: curves of each stage's log, pictures with words before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from mmfm.finetuning.curves import Curve
from mmfm.finetuning.material import Material
from mmfm.finetuning.measure import Measured
from mmfm.finetuning.watch import LOG, SCORE
from mmfm.page import Card, Row, Section
from mmfm.preprocess.images import load_image
from mmfm.training.log import read_log

STAGES = (
    "towers",
    "projections",
    "new_words",
    "caption_words",
    "captions",
    "pixels",
    "flow",
    "few_steps",
)
_SHOWN = 12  # pictures of a row
_EDGE = 128  # pixels of a picture on the page


def curves(folder: Path) -> list[Curve]:
    """The loss of each stage, and what was measured on the hold-out."""
    found = []
    for name, lines in _logs(folder):
        loss = [(line["step"], line["loss"]) for line in lines if _is_number(line.get("loss"))]
        found.append(Curve(f"{name}: loss", {"loss": loss}))
        told = [line for line in lines if SCORE in line]
        keys = [key for key in (told[0] if told else {}) if _is_score(key)][:3]
        points = {key: [(line["step"], line[key]) for line in told] for key in keys}
        if points:
            found.append(Curve(f"{name}: hold-out", points))
    return found


def ends(folder: Path) -> dict[str, Any]:
    """Of each stage: steps made, the step whose weights were kept, and its figures."""
    found = {}
    for name, lines in _logs(folder):
        told = [line for line in lines if SCORE in line]
        best = max(told, key=lambda line: (line[SCORE], -line["step"])) if told else {}
        found[name] = {
            "steps": max(line["step"] for line in lines), "best_step": best.get("step"),
            "best": {k: v for k, v in best.items() if _is_score(k)},
        }  # fmt: skip
    return found


def sections(
    material: Material, before: dict[str, Measured], after: dict[str, Measured], folder: Path
) -> list[Section]:
    """Captions and drawn pictures of the hold-out and of the original pictures, old and new."""
    found = []
    sets = [("held_out", "Your pictures", material.measured.samples)]
    if material.original is not None:
        sets.append(("original", "Pictures it knew", material.original.exam.samples))
    for name, title, samples in sets:
        old, new = before[name], after[name]
        if new.said:
            words = old.said or ["-"] * len(new.said)
            cards = [
                Card(_shrunk(load_image(sample.image)), sample.captions[0],
                     (f"before: {was}", f"after: {now}"))
                for sample, was, now in zip(samples[:_SHOWN], words, new.said)
            ]  # fmt: skip
            note = "The true caption is the first line."
            found.append(Section(f"{title}: captions", note, [Row("", cards)]))
        for told, which in ((old, "before"), (new, "after")):
            pairs = list(zip(told.drawn, told.prompts))[:_SHOWN]
            if pairs:
                cards = [Card(_shrunk(image), prompt) for image, prompt in pairs]
                note = "Drawn from the words below, seeds fixed, none left out."
                found.append(Section(f"{title}: generated {which}", note, [Row("", cards)]))
    sheets = sorted((folder / "flow" / "samples").glob("samples-*.png"))
    cards = [Card(Image.open(path).convert("RGB"), f"step {int(path.stem.split('-')[1])}")
             for path in sheets[-3:]]  # fmt: skip
    if cards:
        note = "The same prompts and seeds while the decoder learned."
        found.append(Section("Live samples", note, [Row("", cards, wide=True)]))
    return found


def _logs(folder: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    paths = [(name, folder / name / LOG) for name in STAGES]
    logs = [(name, read_log(path)) for name, path in paths if path.exists()]
    return [(name, lines) for name, lines in logs if lines]


def _is_score(key: str) -> bool:
    return key.startswith(("held_out_", "original_", "distance"))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _shrunk(image: Image.Image) -> Image.Image:
    image = image.convert("RGB")
    image.thumbnail((_EDGE, _EDGE))
    return image
