"""What a model costs and what making it cost: parameters, operations, CPU seconds, energy.

Operations are floating-point ones (a multiply and an add are two), counted by torch on the real
modules, one input at a time. Those of a training run are 3 x forward for what is trained (the
backward pass costs twice the forward one) and 1 x for what only runs, times the samples seen.
Energy is CPU seconds times watts a core, a range that is stated and not metered. The result is
`compute.json` of a bundle, from which `mmfm card` and `mmfm info` read.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from mmfm.drawing.sampling import Sampling
from mmfm.errors import DataError, InputError
from mmfm.shapes import Embeddings
from mmfm.training.log import LINES
from mmfm.training.meter import flop_counter

GUIDELINE = (
    1e23  # FLOP of training: indicative for general-purpose models, European Commission 2025
)
WATTS = (5.0, 15.0)  # a core of a server with its share of memory, fans and losses; assumed
_FLOPS = "3 x forward for what a stage trains, 1 x for what it only runs, times its samples"
_COUNTED = "counted by torch in the run itself"
_ENERGY = "CPU seconds x watts a core; the watts are assumed, nothing was metered"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of a training run."""

    name: str
    samples: int  # visits: steps x batch size
    trained: Mapping[str, float] = field(default_factory=dict)  # operation -> times a sample, x 3
    run: Mapping[str, float] = field(default_factory=dict)  # operation -> times a sample, x 1
    flops: float | None = None  # of the whole stage, where they were counted
    cpu_seconds: float | None = None  # None: not recorded
    how: str = ""  # where the CPU seconds come from
    hardware: str = ""


def parameters(model: Any) -> dict[str, int]:
    """Parameters of each part of an MMFM, and in all; the towers and the few-step mode apart."""
    parts = dict(model.parts)
    towers = parts.pop("backbone").towers
    counts = {"image_tower": _count(towers.visual) if hasattr(towers, "visual") else 0}
    counts["text_tower"] = _count(towers) - counts["image_tower"]
    few = getattr(parts.get("decoder"), "few_steps", None)
    for name, part in parts.items():
        counts[name] = _count(part)
    if few is not None:
        counts["few_steps"] = _count(few)
        counts["decoder"] -= counts["few_steps"]
    return {**counts, "total": sum(counts.values())}


@torch.no_grad()
def operations(model: Any) -> dict[str, float]:
    """Operations of one of each thing that an MMFM does, forward, in float32.

    image_embedding; text_embedding, of a text as long as the tower reads; caption_token, the mean
    over a text of the head's greatest length, the picture read for it included; pixel_decoding, a
    map to a picture; network_evaluation, of the flow network for one picture; picture, by the
    model's own steps and guidance, from such a text to pixels; few_steps_picture. What the model
    has no head for is left out.
    """
    backbone, decoder = model.backbone, model.decoder
    size = model.image_size
    ids = backbone.tokenize([" ".join(["a"] * model.config.backbone.context_length)])
    ids, pixels = ids.to(model.device), torch.zeros(1, 3, size, size, device=model.device)
    seen, found = [], {}
    found["image_embedding"] = _counted(lambda: seen.append(backbone.encode_images(pixels)))
    found["text_embedding"] = _counted(lambda: seen.append(backbone.encode_texts(ids)))
    image, text = seen
    if model.captioner is not None:
        found["caption_token"] = _caption_token(model.captioner, image)
    if hasattr(decoder, "network"):
        found.update(_drawing(decoder, text, found["text_embedding"], _settings(model)))
    elif model.pixel_decoder is not None:
        found["pixel_decoding"] = _counted(lambda: model.pixel_decoder(image.tokens))
    return found


def stage_of_log(folder: str | Path, batch_size: int | None = None, **given: Any) -> Stage:
    """A stage as the loop logged it: samples, operations that torch counted, CPU seconds.

    folder: with log.jsonl. batch_size: of a log that does not tell its samples. given: fields of
    Stage that the log does not know, or that count in place of what it says. Raises DataError when
    there is no log, or no step in it, or the samples are not told.
    """
    path = Path(folder) / LINES
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no log of a training run: {error}") from error
    steps = [line for line in lines if line.get("kind") == "train"]
    if not steps:
        raise DataError(f"{path} has no step in it; give the stage's samples by hand")
    batch_size = batch_size or _batch_size(steps)
    if batch_size is None and "samples" not in given:
        raise DataError(f"{path} does not tell its samples; give the batch_size beside it")
    samples = given.get("samples", steps[-1]["step"] * (batch_size or 0))
    rates = [
        line["gflops_per_second"] / line["samples_per_second"] * 1e9
        for line in steps if line.get("samples_per_second") and line.get("gflops_per_second")
    ]  # fmt: skip
    found: dict[str, Any] = {"name": path.parent.name, "samples": samples}
    if rates:
        found["flops"] = statistics.median(rates) * samples
    if all("cpu_seconds" in line for line in steps):
        found["cpu_seconds"] = sum(line["cpu_seconds"] for line in steps)
        found["how"] = "measured: CPU seconds of the process"
    return Stage(**{**found, **given})


def _batch_size(steps: Sequence[Mapping[str, Any]]) -> int | None:
    """Samples a step; the most of any line, since a resumed run begins in the middle of one."""
    ends = [0, *(line["step"] for line in steps)]
    rates = [line["samples"] / (end - start) for start, end, line in zip(ends, ends[1:], steps)
             if line.get("samples") and end > start]  # fmt: skip
    return round(max(rates)) if rates else None


def read_stages(path: str | Path) -> list[Stage]:
    """Stages told in a JSON file: a list of objects with the fields of Stage.

    One with "log" is read from the log of that folder, a path from where the program runs, with
    "batch_size" where the log does not tell its samples. Raises DataError, naming the stage, for
    what is missing or not known.
    """
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"the stages in {path} cannot be read: {error}") from error
    if not isinstance(told, list) or not all(isinstance(one, dict) for one in told):
        raise DataError(f"{path} wants a list of objects, one a stage")
    return [_stage(dict(one), number, path) for number, one in enumerate(told)]


def compute(
    model: Any, stages: Sequence[Stage] = (), *, watts: tuple[float, float] = WATTS
) -> dict[str, Any]:
    """`compute.json` of a model, as plain JSON types.

    stages: how it was trained; none: "training" is null, and no energy is told. watts: of a core,
    least and most. Raises InputError when a stage names an operation that the model does not have,
    or the watts are no range.
    """
    if not 0 < watts[0] <= watts[1]:
        raise InputError(f"watts a core are {watts}, wanted two numbers, 0 < least <= most")
    each = operations(model)
    found: dict[str, Any] = {
        "parameters": parameters(model),
        "flops": each,
        "flops_text_tokens": model.config.backbone.context_length,
        "picture": _settings(model),
        "training": None,
        "energy": None,
    }
    if not stages:
        return found
    rows = [{**asdict(stage), "flops": _flops(stage, each),
             "flops_method": _FLOPS if stage.flops is None else _COUNTED}
            for stage in stages]  # fmt: skip
    known = [row["cpu_seconds"] for row in rows]
    total, seconds = sum(row["flops"] for row in rows), None if None in known else sum(known)
    found["training"] = {
        "stages": rows, "samples": sum(stage.samples for stage in stages), "flops": total,
        "cpu_seconds": seconds, "flops_guideline": GUIDELINE,
        "share_of_guideline": total / GUIDELINE,
    }  # fmt: skip
    if seconds is not None:
        found["energy"] = {
            "method": _ENERGY, "watts_per_core": list(watts),
            "kwh": [seconds * watt / 3.6e6 for watt in watts],
        }  # fmt: skip
    return found


def _settings(model: Any) -> dict[str, Any]:
    """How many steps a picture takes, and its guidance; nothing where the model does not draw."""
    if not hasattr(model.decoder, "network"):
        return {}
    drawn = Sampling.of(model.config.generation, {})
    return {"num_steps": drawn.num_steps, "guidance_scale": drawn.guidance_scale}


def _count(part: Any) -> int:
    return sum(p.numel() for p in part.parameters())


def _counted(work: Callable[[], Any]) -> float:
    fast = torch.backends.mha.get_fastpath_enabled()
    # why: the fused attention of inference is one operation that torch's counter does not know
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with flop_counter() as counter:
            work()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return float(counter.get_total_flops())


def _caption_token(captioner: Any, seen: Embeddings) -> float:
    length = captioner.config.max_tokens
    ids = torch.zeros(1, length, dtype=torch.long, device=seen.pooled.device)
    return _counted(lambda: captioner(ids, *captioner.memory(seen))) / length


def _drawing(
    decoder: Any, text: Embeddings, reading: float, generation: Mapping[str, Any]
) -> dict[str, float]:
    config, device = decoder.config, text.pooled.device
    map_ = torch.zeros(1, config.channels, config.map_size, config.map_size, device=device)
    condition = decoder.network.conditioner(text, None, None)
    start = torch.zeros(1, device=device)
    found = {
        "pixel_decoding": _counted(lambda: decoder.space.decode(map_)),
        "network_evaluation": _counted(lambda: decoder.network(map_, start, condition)),
        "picture": reading + _counted(lambda: decoder.sample(text, [0], **generation)),
    }
    if decoder.few_steps is not None:
        decoder.few_network()  # made once and kept, so that making it is no part of a picture
        found["few_steps_picture"] = reading + _counted(lambda: decoder.sample_few(text, [0]))
    return found


def _stage(told: dict[str, Any], number: int, path: str | Path) -> Stage:
    name = told.get("name", f"number {number + 1}")
    log, batch_size = told.pop("log", None), told.pop("batch_size", None)
    unknown = set(told) - {one.name for one in fields(Stage)}
    if unknown:
        raise DataError(f"stage {name} in {path} has {min(unknown)!r}, which is no part of a stage")
    if log is not None:
        return stage_of_log(log, batch_size, **told)
    missing = {"name", "samples"} - set(told)
    if missing:
        raise DataError(f"stage {name} in {path} has no {min(missing)} and no log to read it from")
    return Stage(**told)


def _flops(stage: Stage, each: Mapping[str, float]) -> float:
    if stage.flops is not None:
        return float(stage.flops)
    unknown = [name for name in (*stage.trained, *stage.run) if name not in each]
    if unknown:
        raise InputError(
            f"stage {stage.name} names {unknown[0]!r}; this model's operations are "
            f"{', '.join(each)}"
        )
    once = sum(3 * times * each[name] for name, times in stage.trained.items())
    once += sum(times * each[name] for name, times in stage.run.items())
    return once * stage.samples
