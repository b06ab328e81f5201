"""The model card of a bundle: Markdown under the front matter that the Hugging Face hub reads.

Made of the bundle's own papers (`mmfm/papers.py`) and nothing else: every figure in it is one of
metrics.json or compute.json, rounded; what is not in them is "not recorded". Sections follow
Mitchell et al., "Model Cards for Model Reporting" (1810.03993), the front matter huggingface_hub's
ModelCardData.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmfm.papers import ATTRIBUTION, COMPUTE, MANIFEST, METRICS, Papers

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

NOT_RECORDED = "not recorded"
SECTIONS = (
    "Intended use", "What it cannot do", "Data and licences", "Figures", "Bias",
    "Compute and energy", "Files", "How to use it",
)  # fmt: skip
SKILLS = {  # part of config.json -> (what it is good for, a tag of the hub)
    "backbone": ("finding pictures by words or by pictures, naming them among given labels",
                 "image-feature-extraction"),
    "captioner": ("describing pictures, or stored vectors, in words", "image-to-text"),
    "decoder": ("drawing pictures from words, pictures or stored vectors", "text-to-image"),
}  # fmt: skip


def percent(value: float) -> str:
    """0.213 -> "21.3%"."""
    return f"{100 * value:.1f}%"


def fixed(digits: int, unit: str = "") -> Callable[[float], str]:
    """Numbers with so many digits behind the point, and a unit."""
    return lambda value: f"{value:.{digits}f}{unit}"


def count(value: float) -> str:
    """1630 -> "1,630"."""
    return f"{value:,.0f}"


RATES = tuple(f"{way}_recall@{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10))
FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {  # path in a split -> label, how shown
    "data.num_samples": ("drawings", count),
    "retrieval.gallery": ("retrieval gallery", count),
    **{f"retrieval.{name}{chance}": (label.replace("_", " ") + (", by chance" if chance else ""),
                                     percent)
       for name in RATES for chance in ("", "_chance") for label in [name]},
    "captioning.exact_name": ("caption = the name, word for word", percent),
    "captioning.token_f1_name": ("caption token F1 against the name", fixed(3)),
    "captioning.exact": ("caption = a reference", percent),
    "captioning.token_f1": ("caption token F1 against all references", fixed(3)),
    "captioning.token_f1_shuffled": ("· captions of other pictures (chance)", fixed(3)),
    "captioning.ports.grid.token_f1_name": ("· from the grid alone, against the name", fixed(3)),
    "captioning.ports.pooled.token_f1_name": ("· from the pooled vector alone", fixed(3)),
    "captioning.cider_d": ("caption CIDEr-D", fixed(2)),
    "captioning.bleu_1": ("caption BLEU-1", fixed(3)),
    "captioning.bleu_4": ("caption BLEU-4", fixed(3)),
    "reconstruction.psnr": ("reconstruction PSNR", fixed(2, " dB")),
    "reconstruction.psnr_flat": ("· of one flat colour (chance)", fixed(2, " dB")),
    "reconstruction.ssim": ("reconstruction SSIM", fixed(3)),
    "reranking.recall@1": ("names found first, by cosine", percent),
    "reranking.reranked_recall@1": ("· ten nearest ordered by the caption head", percent),
}  # fmt: skip
DRAWN: dict[str, tuple[str, Callable[[float], str]]] = {  # of judged pictures: key -> label, how
    "num_pictures": ("pictures", count),
    "num_steps": ("steps", count),
    "top1": ("named right by an independent judge", percent),
    "real_top1": ("· real drawings (ceiling)", percent),
    "shuffled_top1": ("· other prompts' names (chance)", percent),
    "top5": ("right name among five", percent),
    "probability": ("judge's probability of the name", fixed(3)),
    "fid": ("FID in the judge's features", fixed(1)),
    "cmmd": ("CMMD", fixed(3)),
}
MODEL_INDEX = {  # what the hub lists: path in a split -> (task, metric, its name)
    **{f"retrieval.{name}": ("zero-shot-image-classification", "recall", name) for name in RATES},
    "captioning.token_f1_name": ("image-to-text", "f1", "token F1 against the name"),
    "captioning.exact_name": ("image-to-text", "exact_match", "the name, word for word"),
    "captioning.cider_d": ("image-to-text", "cider", "CIDEr-D"),
    "captioning.bleu_4": ("image-to-text", "bleu", "BLEU-4"),
    "reconstruction.psnr": ("image-to-image", "psnr", "PSNR, dB"),
    "generation.top1": ("text-to-image", "accuracy", "named right by an independent judge"),
    "generation.fid": ("text-to-image", "fid", "FID in the judge's features"),
}


def at(facts: Any, path: str) -> Any:
    """What lies at "a.b.c" of nested objects, or None."""
    for key in path.split("."):
        facts = facts.get(key) if isinstance(facts, Mapping) else None
    return facts


def leaves(facts: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """("a.b", value) of everything in nested objects that is no object."""
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def number(value: Any) -> str:
    """Any figure as people read it: integers whole, others with four digits."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; none without rows."""
    return (
        []
        if not rows
        else ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    )


def front_matter(papers: Papers) -> ModelCardData:
    """What the hub reads; figures as they stand in metrics.json. `.to_dict()` has plain types."""
    from huggingface_hub import EvalResult, ModelCardData

    name, figures = papers.config["name"], papers.metrics.get("figures", {})
    tags = [tag for part, (_, tag) in SKILLS.items() if papers.config.get(part)]
    results, kinds = [], []
    for split, found in figures.items():
        for path, (task, metric, label) in MODEL_INDEX.items():
            value = at(found, path)
            if value is not None:
                kinds.append(metric)
                results.append(EvalResult(
                    task_type=task, dataset_type="custom", dataset_name=split,
                    dataset_split=split, metric_type=metric, metric_name=label, metric_value=value,
                ))  # fmt: skip
    licence = str(papers.metrics.get("license", "")).split(" ")[0].lower()
    return ModelCardData(
        license=licence or None, library_name="mmfm",
        pipeline_tag="zero-shot-image-classification",
        tags=["open_clip", "clip", "multimodal", *tags], model_name=name,
        datasets=papers.metrics.get("datasets"),
        metrics=list(dict.fromkeys(kinds)) or None, eval_results=results or None,
    )  # fmt: skip


def markdown(papers: Papers) -> str:
    """The whole card."""
    head = front_matter(papers).to_yaml()
    makers = (_use, _limits, _data, _figures, _bias, _compute, _files, _call)
    lines = ["---", head.rstrip(), "---", "", f"# {papers.config['name']}", "", *_what(papers)]
    for title, make in zip(SECTIONS, makers, strict=True):
        lines += ["", f"## {title}", "", *make(papers)]
    return "\n".join(lines) + "\n"


def _what(papers: Papers) -> list[str]:
    backbone = papers.config["backbone"]["model_cfg"]
    size = at(backbone, "vision_cfg.image_size")
    parts = [part for part in ("captioner", "pixel_decoder", "decoder") if papers.config.get(part)]
    heads = ", ".join(part.replace("_", " ") for part in parts) or "none"
    space = at(papers.config, "decoder.space")
    return [
        f"One contrastively trained open_clip backbone, whose embeddings its heads share. Pictures "
        f"of {size} px, vectors of {backbone.get('embed_dim')} numbers; heads: {heads}"
        + (f"; the decoder draws in {space} space." if space else "."),
        f"It knows: {papers.metrics.get('knows', NOT_RECORDED)}.",
        "",
        f"This card was made by `mmfm card` from this folder's own files; figures come from "
        f"{METRICS} and {COMPUTE}.",
    ]  # fmt: skip


def _use(papers: Papers) -> list[str]:
    able = [f"- {text};" for part, (text, _) in SKILLS.items() if papers.config.get(part)]
    return [*able, "- research and teaching, and as a start for training on your own pictures."]


def _limits(papers: Papers) -> list[str]:
    told = papers.metrics.get("limits") or [NOT_RECORDED]
    return [
        *(f"- {one}" for one in told),
        "- It is not to be used to make decisions about anybody. Pictures that it draws are marked "
        "as generated in their metadata; leave the mark there.",
    ]


def _data(papers: Papers) -> list[str]:
    told = papers.metrics.get("trained_on", {})
    lines = [f"Trained on: {told.get('drawings') or told.get('data') or NOT_RECORDED}."]
    samples = told.get("samples")
    if isinstance(samples, Mapping) and samples:
        parts = ", ".join(f"{split} {number(value)}" for split, value in samples.items())
        lines += [f"Samples of each split: {parts}.", ""]
    lines += [f"- `{name}`, SHA-256 `{digest}`" for name, digest in
              told.get("archives_sha256", {}).items()]  # fmt: skip
    lines += ["", f"Licence: {papers.metrics.get('license', NOT_RECORDED)}."]
    if papers.licences:
        rows = [[name, ", ".join(one["sets"]), count(one["pictures"])]
                for name, one in papers.licences.items()]  # fmt: skip
        lines += ["", *table(("licence of the data", "sets", "pictures"), rows)]
    if papers.attribution:
        body = [line for line in papers.attribution.strip().splitlines()
                if not line.startswith("# ")]  # fmt: skip
        lines += ["", f"### Attribution ({ATTRIBUTION})", "", *"\n".join(body).strip().split("\n")]
    else:
        lines += ["", f"Attribution: {NOT_RECORDED}."]
    return lines


def _figures(papers: Papers) -> list[str]:
    splits = papers.metrics.get("figures", {})
    if not splits:
        return [f"Figures: {NOT_RECORDED}."]
    lines = table(*figures_of(splits, FIGURES))
    for split, found in splits.items():
        seen = {"data.sha256", "seed", "backbone_hash", *FIGURES}
        drawn = {name: one for name, one in found.items() if name.startswith("generation")}
        if drawn:
            lines += [
                "",
                f"Drawn for the names of `{split}`:",
                "",
                *table(*figures_of(drawn, DRAWN)),
            ]
        if asked := found.get("prompts"):
            lines += ["", f"Questions about `{split}`; beside each, what the commonest right "
                      "answer would get:", "", *_asked(asked)]  # fmt: skip
        lines += ["", f"`{split}`: seed {found.get('seed', NOT_RECORDED)}, sample keys "
                  f"`{str(at(found, 'data.sha256') or NOT_RECORDED)[:16]}`, backbone "
                  f"`{str(found.get('backbone_hash', NOT_RECORDED))[:16]}`"
                  + _command(papers, split) + "."]  # fmt: skip
        other = {key: value for key, value in found.items() if key not in drawn}
        rest = [(key, value) for key, value in leaves(other) if key not in seen]
        shown = not any(at(found, path) is not None for path in FIGURES)
        lines += [f"- {key}: {number(value)}" for key, value in rest if shown]
    return lines


def _command(papers: Papers, split: str) -> str:
    command = at(papers.metrics, f"commands.{split}")
    return f"; `{command}`" if command else ""


def figures_of(
    columns: Mapping[str, Any], wanted: Mapping[str, tuple[str, Callable[[float], str]]]
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: a column for each of `columns`, a row for each of `wanted` that one
    of them has.
    """
    rows = []
    for path, (label, shown) in wanted.items():
        values = [at(found, path) for found in columns.values()]
        if any(value is not None for value in values):
            rows.append([label, *("-" if value is None else shown(value) for value in values)])
    return ["", *columns], rows


def _asked(asked: Mapping[str, Mapping[str, float]]) -> list[str]:
    rows = [
        [kind, count(one["num_images"]), percent(one["exact"]), percent(one["exact_majority"]),
         fixed(3)(one["token_f1"]), fixed(3)(one["token_f1_majority"])]
        for kind, one in asked.items()
    ]  # fmt: skip
    return table(("kind", "pictures", "exact", "commonest", "token F1", "commonest"), rows)


def _bias(papers: Papers) -> list[str]:
    found = papers.metrics.get("bias")
    if not found:
        return [f"Measured bias: {NOT_RECORDED}."]
    lines = [f"Measured on {number(found.get('num_samples'))} held-out drawings; groups are small, "
             "so read them with their counts."]  # fmt: skip
    for title, group in found.items():
        if not isinstance(group, Mapping):
            continue
        told = group.get("about")
        lines += ["", f"**{title.replace('_', ' ')}**" + (f": {told}" if told else "")]
        plain = {k: v for k, v in group.items() if k != "about" and not isinstance(v, Mapping)}
        if plain:
            lines += ["", "; ".join(f"{k.replace('_', ' ')} {number(v)}" for k, v in plain.items())]
        inner = {k: dict(leaves(v)) for k, v in group.items() if isinstance(v, Mapping)}
        names = list(dict.fromkeys(key for one in inner.values() for key in one))
        if inner:
            rows = [[name.replace("_", " "), *(number(one.get(key)) for key in names)]
                    for name, one in inner.items()]  # fmt: skip
            lines += ["", *table(("", *(key.replace("_", " ") for key in names)), rows)]
    return lines


def _compute(papers: Papers) -> list[str]:
    found = papers.compute
    if not found:
        return [f"Parameters, operations, hardware, CPU hours and energy: {NOT_RECORDED}."]
    held = [[k.replace("_", " "), count(v)] for k, v in found["parameters"].items()]
    each = [[k.replace("_", " "), f"{v:.3g}"] for k, v in found["flops"].items()]
    one = f"one (texts of {found['flops_text_tokens']} tokens)"
    drawn = ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in found["picture"].items())
    settings = ["", f"A picture is drawn with {drawn}."] if drawn else []
    return [*table(("part", "parameters"), held), "", *table((one, "FLOP"), each), *settings, "",
            *_training(found)]  # fmt: skip


def _training(compute: Mapping[str, Any]) -> list[str]:
    training, energy = compute.get("training"), compute.get("energy")
    if not training:
        return [f"Training, hardware, CPU hours and energy: {NOT_RECORDED}."]
    rows = [
        [one["name"], count(one["samples"]), f"{one['flops']:.3g}", _hours(one["cpu_seconds"]),
         one["how"] or "-", one["hardware"] or "-"]
        for one in training["stages"]
    ]  # fmt: skip
    lines = table(("stage", "samples", "FLOP", "CPU hours", "measured", "hardware"), rows)
    methods = dict.fromkeys(one["flops_method"] for one in training["stages"])
    lines += ["", f"In all {training['flops']:.3g} FLOP ({'; '.join(methods)}), "
              f"{_hours(training['cpu_seconds'])} CPU hours. Indicative: "
              f"{training['share_of_guideline']:.1g} of the {training['flops_guideline']:.0e} FLOP "
              "above which the European Commission's guidelines presume a general-purpose AI "
              "model."]  # fmt: skip
    if energy:
        (low, high), watts = energy["kwh"], energy["watts_per_core"]
        lines += ["", f"Energy: {low:.3g} to {high:.3g} kWh at {watts[0]:g} to {watts[1]:g} W a "
                  f"core ({energy['method']})."]  # fmt: skip
    else:
        lines += ["", f"Energy: {NOT_RECORDED}."]
    return lines


def _hours(seconds: float | None) -> str:
    return NOT_RECORDED if seconds is None else f"{seconds / 3600:.3g}"


def _files(papers: Papers) -> list[str]:
    rows = [[f"`{name}`", count(one["bytes"]), f"`{one['sha256']}`"]
            for name, one in papers.files.items()]  # fmt: skip
    return [*table(("file", "bytes", "SHA-256"), rows), "",
            f"The same list is in `{MANIFEST}`. The tokenizer is open_clip's own: CLIP's byte "
            "pairs where `open_clip_config.json` names no other."]  # fmt: skip


def _call(papers: Papers) -> list[str]:
    calls = ['model = mmfm.load("FOLDER")  # this folder',
             'model.embed_texts(["a red apple"]) @ model.embed_images("pictures").T']  # fmt: skip
    if papers.config.get("captioner"):
        calls.append('model.caption("picture.png")')
    if papers.config.get("decoder"):
        calls.append('model.generate("a red apple", seed=0)[0].save("apple.png")')
    return ["```python", "import mmfm", "", *calls, "```", "",
            "open_clip alone reads the backbone: "
            '`open_clip.create_model_and_transforms("local-dir:FOLDER")`.']  # fmt: skip
