"""What the model could do before: pictures that it knows, some to practise and some to measure.

Where the user has the model's own data (`original=`), that; else, for the model that ships, the
drawings in the package. The two halves are cut by content, so what is measured is never practised.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

from mmfm.captioner.vocabulary import Vocabulary
from mmfm.data.bad import BadSamples
from mmfm.data.sample import Sample
from mmfm.evaluation import open_samples
from mmfm.finetuning.pictures import Pictures, fits
from mmfm.finetuning.split import halves
from mmfm.preprocess.transform import Preprocess

GALLERY = Path(__file__).parents[1] / "gallery"
_MOST_MEASURED = 500  # whose figures are within two points of those of more
_LEAST_PRACTISED, _FOR_EACH = 500, 4  # original pictures; no stage draws more of them for a new one
_LEAST = 8  # pictures of each half


@dataclass(frozen=True)
class Original:
    """practice: learned from, so that nothing is forgotten.

    exam: never learned from; measured, and what the mixes are chosen on beside the hold-out.
    name: where they are from, for the report.
    """

    practice: Pictures
    exam: Pictures
    name: str


def read_original(
    path: str | os.PathLike[str] | None, preprocess: Preprocess, is_ours: bool, *, num_new: int,
    seed: int = 0,
) -> Original | None:  # fmt: skip
    """From shards or a folder, or the gallery of the package for the model that ships (`is_ours`).

    Of many pictures a part, drawn with `seed`, that suits `num_new` new ones. None where there is
    neither. Raises DataError where the path holds no pictures, or too many that cannot be read.
    """
    if path is not None:
        samples, bad = open_samples(path), BadSamples("skip", max_fraction=0.05)
        most = _MOST_MEASURED + max(_LEAST_PRACTISED, _FOR_EACH * num_new)
        places = None
        if len(samples) > most:
            places = sorted(random.Random(seed).sample(range(len(samples)), most))
        read = samples.read(places, bad)
        found = [s for s in read if any(map(str.strip, s.captions)) and fits(s, preprocess, bad)]
        bad.check()
        name = str(path)
    elif is_ours:
        found = gallery()
        name = f"the {len(found)} drawings in the package"
    else:
        return None
    pictures = Pictures.of(found, preprocess)
    practice, exam = halves(pictures.keys, "original:", _MOST_MEASURED)
    return Original(pictures.select(practice), pictures.select(exam), name)


def without(original: Original | None, pictures: Pictures) -> tuple[Original | None, int]:
    """The original pictures that are not among `pictures`, pixel by pixel, and how many went.

    None when fewer than 8 are left to measure.
    """
    if original is None:
        return None, 0
    known = {square.tobytes() for square in pictures.squares.pixels}
    parts = [
        part.select([i for i, s in enumerate(part.squares.pixels) if s.tobytes() not in known])
        for part in (original.practice, original.exam)
    ]
    gone = len(original.practice) + len(original.exam) - sum(map(len, parts))
    if min(map(len, parts)) < _LEAST:
        return None, gone
    return Original(parts[0], parts[1], original.name), gone


def gallery() -> list[Sample]:
    """The drawings of the package: of the test split, never trained on."""
    lines = (GALLERY / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines if line.strip()]
    return [
        Sample(Path(e["file_name"]).stem, (GALLERY / e["file_name"]).read_bytes(), (e["text"],),
               {"key": e["key"], "set": e["set"], "name": e["text"]})
        for e in entries
    ]  # fmt: skip


def known_words(vocabulary: Vocabulary | None, texts: list[str]) -> list[str]:
    """Words that the model has learned: whole words of the caption head's tokens, and `texts`.

    They say what the text tower must not forget, without any data. A token that is only a piece of
    words ("zor") is none.
    """
    found = list(texts)
    if vocabulary is not None:
        for local, token in enumerate(vocabulary.token_ids):
            word = vocabulary.decode([local]).strip()
            if len(word) > 2 and word.isalpha() and vocabulary.tokenizer.encode(word) == [token]:
                found.append(word)
    return list(dict.fromkeys(found))
