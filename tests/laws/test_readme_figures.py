"""Figures of the README are those of the bundle that ships, rounded: they cannot drift apart.

Tables are found by their first row's labels. A figure in brackets is history and not compared.
"""

import json
import re
from pathlib import Path

import mmfm
from mmfm.card import at, count, fixed, percent

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
METRICS = json.loads(
    (Path(mmfm.__file__).parent / "weights" / "mini" / "metrics.json").read_text(encoding="utf-8")
)["figures"]
SPLITS = ("test_emoji", "test", "unseen")
PROMPTS = {  # the first words of a row -> kind
    "question: what is it": "what", "a drawing of": "prefix", "question: what colour": "colour",
    "question: how many": "how many", "question: which style": "which style",
    "question: is there": "is there", "keywords:": "keywords", "sentence:": "sentence",
}  # fmt: skip
MODES = {"50 guided steps": "generation_50_steps", "25 guided steps": "generation",
         "few steps": "generation_few"}  # fmt: skip


def recalls(way, end=""):
    return [(f"retrieval.{way}_recall@{k}{end}", percent) for k in (1, 5, 10)]


THREE = fixed(3)
PORTS = [(f"captioning.ports.{port}.token_f1_name", THREE) for port in ("grid", "pooled")]
ROWS = [  # of the first table, in order: (how its label begins, [(path, how shown)])
    ("drawings", [("data.num_samples", count)]),
    ("retrieval gallery", [("retrieval.gallery", count)]),
    ("text to image recall", recalls("text_to_image")),
    ("· chance", recalls("text_to_image", "_chance")),
    ("image to text recall", recalls("image_to_text")),
    ("· chance", recalls("image_to_text", "_chance")),
    ("caption = the name", [("captioning.exact_name", percent)]),
    ("caption token F1 against the name", [("captioning.token_f1_name", fixed(3))]),
    ("· from the grid alone", PORTS),
    ("caption exact / token F1", [("captioning.exact", percent), ("captioning.token_f1", THREE)]),
    ("· captions of other", [("captioning.token_f1_shuffled", fixed(3))]),
    ("caption CIDEr-D", [("captioning.cider_d", fixed(2))]),
    ("caption BLEU", [("captioning.bleu_1", fixed(3)), ("captioning.bleu_4", fixed(3))]),
    ("reconstruction", [("reconstruction.psnr", fixed(2, " dB")), ("reconstruction.ssim", THREE)]),
    ("· flat colour", [("reconstruction.psnr_flat", fixed(2, " dB"))]),
]  # fmt: skip


def tables():
    """Every table of the README, as rows of cells."""
    found, rows = [], []
    for line in [*README.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("| ").split(" | ")])
        elif rows:
            found.append(rows)
            rows = []
    return found


def rows_under(word):
    """Rows of the table in whose head a cell has this word."""
    [rows] = [rows for rows in tables() if any(word in cell for cell in rows[0])]
    return rows[2:]


def figures_of(cell):
    """The figures of a cell, without emphasis and without what stands in brackets."""
    return re.sub(r"\([^)]*\)", "", cell.replace("*", "")).strip().split(" / ")


def test_the_table_of_results():
    rows = rows_under("test, emoji families")
    assert len(rows) == len(ROWS), "a row of the README has no figure of the bundle, or none has it"
    for (label, *cells), (begin, wanted) in zip(rows, ROWS):
        assert label.startswith(begin)
        for cell, split in zip(cells, SPLITS, strict=True):
            shown = [how(at(METRICS[split], path)) for path, how in wanted]
            assert figures_of(cell) == shown, f"{label}, {split}"


def test_the_table_of_questions():
    asked = METRICS["test"]["prompts"]
    for label, *cells in rows_under("commonest"):
        [kind] = [kind for begin, kind in PROMPTS.items() if label.strip("`").startswith(begin)]
        one = asked[kind]
        shown = [percent(one["exact"]), percent(one["exact_majority"]),
                 fixed(3)(one["token_f1"]), fixed(3)(one["token_f1_majority"])]  # fmt: skip
        assert cells == shown, label


def test_the_table_of_generated_pictures():
    found = METRICS["test_emoji"]
    wanted = [("top1", percent), ("share_of_real_top1", percent), ("top5", percent),
              ("probability", fixed(3)), ("fid", fixed(1)), ("cmmd", fixed(3))]  # fmt: skip
    for label, _, *cells in rows_under("network evaluations"):
        modes = [mode for begin, mode in MODES.items() if label.startswith(begin)]
        for mode in modes:
            assert cells == [how(found[mode][key]) for key, how in wanted], label
    assert f"names {percent(found['generation']['real_top1'])} of the" in README


def test_the_sentence_about_reranking():
    found = METRICS["test_emoji"]["reranking"]
    told = re.search(r"comes first for ([\d.%]+) by cosine and ([\d.%]+)\s+when", README)
    assert list(told.groups()) == [percent(found[k]) for k in ("recall@1", "reranked_recall@1")]
