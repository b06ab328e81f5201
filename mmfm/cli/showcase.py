"""The three acts of `mmfm demo`: search, caption, generate. Each gives a section of the page and
the same findings as records for `results.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mmfm.cli.gallery import Drawing
from mmfm.cli.pictures import save_generated
from mmfm.index import Hit, Index
from mmfm.model import MMFM
from mmfm.page import Card, Row, Section
from mmfm.preprocess.images import load_image

SEARCHES = ("heart", "flag", "a crying face", "tree", "a spider", "fruit")
PICTURE = "fluent-emoji-nine-o-clock.png"
MIX = [("a red apple", 1.0), ("green", 1.0), ("red", -1.0)]
PROMPTS = (
    "a red apple", "red heart", "yellow smiling face", "pizza", "sun", "tree",
    "blue car", "flag of France", "house", "dog face", "rainbow", "soccer ball",
)  # fmt: skip
NUM_HITS = 6
NUM_CAPTIONED = 16
NUM_EACH = 2  # pictures for a prompt


class Act(NamedTuple):
    section: Section
    records: list[dict[str, Any]]


def search(index: Index, drawings: list[Drawing]) -> Act:
    """By texts, by one picture, and by a text with a word added and a word taken away."""
    shown = next(drawing for drawing in drawings if drawing.path.name == PICTURE)
    mixed = " ".join(f"{'+' if weight > 0 else '-'} {words}" for words, weight in MIX)[2:]
    queries: list[tuple[str, Any]] = [(text, text) for text in SEARCHES]
    queries += [(f"the picture “{shown.text}” of {shown.set}", shown.path), (mixed, MIX)]
    rows, records = [], []
    for title, query in queries:
        hits = [hit for hit in index.search(query, NUM_HITS + 1) if hit.path != str(query)]
        found = [(_drawing(hit, drawings), hit.score) for hit in hits[:NUM_HITS]]
        cards = [
            _card(drawing, drawing.text, f"{drawing.set} {score:.2f}") for drawing, score in found
        ]
        rows.append(Row(title, cards))
        names = [
            {"file": drawing.path.name, "name": drawing.text, "score": round(score, 4)}
            for drawing, score in found
        ]
        records.append({"query": title, "found": names})
    note = (
        "The nearest first; the number is the cosine. Only pixels are compared with the words: "
        "the names below the drawings are for you, the model does not see them."
    )
    return Act(Section("Search", note, rows), records)


def caption(model: MMFM, drawings: list[Drawing]) -> Act:
    """An even choice of the gallery, what the model says of each beside its true name."""
    chosen = drawings[:: max(1, len(drawings) // NUM_CAPTIONED)][:NUM_CAPTIONED]
    said = model.caption([drawing.path for drawing in chosen])
    pairs = list(zip(chosen, said))
    exact = sum(drawing.text.lower() == text.lower() for drawing, text in pairs)
    cards = [_card(drawing, text, f"true name: {drawing.text}") for drawing, text in pairs]
    records = [
        {"file": drawing.path.name, "name": drawing.text, "caption": text}
        for drawing, text in pairs
    ]
    note = (
        f"What the model says of a drawing. {exact} of these {len(pairs)} are its name word for "
        "word; many drawings have more than one fair name."
    )
    return Act(Section("Caption", note, [Row("", cards)]), records)


def generate(
    model: MMFM, index: Index, drawings: list[Drawing], folder: Path, facts: dict[str, Any]
) -> Act:
    """Pictures for the prompts, saved into `folder`; then the way back, by caption and search.

    facts: goes into the metadata of every picture; facts["seed"] is that of the first prompt.
    """
    rows, records, everything = [], [], []
    for number, prompt in enumerate(PROMPTS):
        made = {**facts, "prompt": prompt, "seed": facts["seed"] + number}
        images = model.generate(prompt, num_images=NUM_EACH, seed=made["seed"])
        cards = []
        for i, (image, text) in enumerate(zip(images, model.caption(images))):
            name = f"generated-{number:02d}-{i}.png"
            save_generated(image, folder / name, made)
            [nearest] = index.search(image, 1)
            near = _drawing(nearest, drawings).text
            cards.append(Card(image, f"says: {text}", (f"finds: {near}",)))
            records.append({**made, "file": name, "caption": text, "finds": near})
        rows.append(Row(prompt, cards))
        everything += images
    scores = model.embed_images(everything) @ model.embed_texts(list(PROMPTS)).T
    right = sum(int(row.argmax()) == i // NUM_EACH for i, row in enumerate(scores))
    note = (
        "Drawn from the words above it alone, seeds fixed, none left out. Then the way back: what "
        "the model says of its own picture, and the drawing of the gallery it finds with it. "
        f"It matches {right} of the {len(records)} to their own words among the {len(PROMPTS)} "
        f"(by chance: {NUM_EACH}); this is its own judgement, not an independent one."
    )
    return Act(Section("Generate", note, rows), records)


def _drawing(hit: Hit, drawings: list[Drawing]) -> Drawing:
    return next(drawing for drawing in drawings if str(drawing.path) == hit.path)


def _card(drawing: Drawing, text: str, note: str) -> Card:
    return Card(load_image(drawing.path), text, (note,))
