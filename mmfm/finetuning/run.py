"""A fine-tuning from end to end: `prepare` reads, splits, plans; `Prepared.run` trains, tells."""

from __future__ import annotations

import importlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmfm import bundle
from mmfm.errors import InputError, OutputError
from mmfm.evaluation.judge import Judge
from mmfm.finetuning import showing
from mmfm.finetuning.choices import Choices, choose
from mmfm.finetuning.fresh import lacking, with_heads
from mmfm.finetuning.material import Material
from mmfm.finetuning.measure import Measured, measure
from mmfm.finetuning.original import read_original, without
from mmfm.finetuning.pictures import Account, faults, read_folder
from mmfm.finetuning.plan import Plan
from mmfm.finetuning.prompts import adapt_prompts
from mmfm.finetuning.report import FinetuneReport
from mmfm.finetuning.settings import PROMPT, Settings
from mmfm.finetuning.split import Split, split
from mmfm.finetuning.stages import Tuning, copy_of
from mmfm.finetuning.timing import plan_for
from mmfm.model import MMFM
from mmfm.training.resume import ResumeError

_DRAWN = 32  # pictures drawn of each set, before and after

Say = Callable[[str], None]


@contextmanager
def _flushing_denormals() -> Iterator[None]:
    """Numbers below 1e-38 are zeros for a while: they slow CPU kernels many times over.

    why for a while: the processor's state is the caller's, whose other sums must not change.
    """
    smallest = torch.tensor(5e-324, dtype=torch.float64)
    was = not bool((smallest * torch.ones((), dtype=torch.float64)).item())
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was)


@dataclass(frozen=True)
class Prepared:
    """All that is known before the first step. base: the model, with fresh heads if it had none."""

    base: MMFM
    settings: Settings
    choices: Choices
    material: Material
    account: Account
    parts: Split
    plan: Plan
    output: Path
    command: str
    fresh: list[str]
    lora: bool

    @property
    def adapts_prompts(self) -> bool:
        """Whether only words are adapted: no stage, and no plan is needed."""
        return self.settings.heads == (PROMPT,)

    @property
    def folder(self) -> Path:
        """Where the run lies while it lasts: checkpoints, logs, samples."""
        return self.output.with_name(f"{self.output.name}.run")

    def run(
        self, say: Say = lambda line: None, stop: Callable[[], bool] = lambda: False
    ) -> FinetuneReport:
        """Train, measure, write the model and its report. The same again goes on where it was."""
        if self.adapts_prompts:
            return adapt_prompts(self.base, self.material, self.account, self.output,
                                 self.command, self.settings.seed)  # fmt: skip
        with _flushing_denormals():
            return self._train(say, stop)

    def _train(self, say: Say, stop: Callable[[], bool]) -> FinetuneReport:
        start = time.monotonic()
        judge = Judge.load()
        say("measuring the model as it is")
        before = self._measure(self.base, judge, is_before=True)
        tuning = Tuning(
            copy_of(self.base), self.material, self.choices, self.settings, self.folder,
            self.fresh, self.lora, stop,
        )  # fmt: skip
        try:
            tuning.run()
        except ResumeError as error:
            told = str(error).partition(":")[0]
            raise InputError(
                f"{self.folder} holds a run that cannot go on ({told}); remove that folder, or "
                "choose another output"
            ) from error
        final = self._write(tuning)
        say("measuring the model as it has become")
        after = self._measure(final, judge)
        report = self._report(tuning, before, after, time.monotonic() - start)
        if not self.lora:
            # the weights are halves already: saving them again changes no bit of them
            final.metrics = self._metrics(report)
            final.save_pretrained(self.output, dtype=torch.float16)
        report.write()
        shutil.rmtree(self.folder, ignore_errors=True)
        return report

    def _measure(self, model: MMFM, judge: Judge, is_before: bool = False) -> dict[str, Measured]:
        """Of both sets; what a fresh head says before it has learned anything is left out."""
        if is_before and self.fresh:
            gone = {"caption": "captioner", "decoder": "decoder"}
            model = MMFM(model.config, model.backbone, device=str(model.device), **{
                name: part for name, part in model.parts.items()
                if name in ("captioner", "decoder", "pixel_decoder")
                and name not in [gone[head] for head in self.fresh]
            }, vocabulary=model.vocabulary)  # fmt: skip
        sets = {"held_out": self.material.held_out}
        if self.material.original is not None:
            sets["original"] = self.material.original.exam
        seed = self.settings.seed
        return {
            name: measure(model, part.samples, num_drawn=_DRAWN, judge=judge, seed=seed)
            for name, part in sets.items()
        }

    def _write(self, tuning: Tuning) -> MMFM:
        """The model or the adapter on disk; returns the model as it is there."""
        model = tuning.model
        if self.lora:
            lora = importlib.import_module("mmfm.lora")
            self.output.mkdir(parents=True, exist_ok=True)
            lora.save_set(model, self.output)
            for name in ("backbone", "captioner", "decoder"):
                if name in model.parts:
                    lora.merge(model.parts[name])
            return model
        model.config = replace(model.config, name=self.output.name)
        model.save_pretrained(self.output, dtype=torch.float16)
        return MMFM.from_pretrained(self.output, device=str(model.device))

    def _metrics(self, report: FinetuneReport) -> dict[str, Any]:
        """What the bundle says of itself: where it is from, and how good it is."""
        kept = {
            k: v for k, v in self.base.metrics.items() if k in ("license", "knows", "trained_on")
        }
        return {
            **kept,
            "figures": {name: both["after"] for name, both in report.figures.items()},
            "finetuned": {
                "base": self.base.name, "base_hash": self.base.backbone_hash,
                "pictures": self.plan.counts, "command": self.command,
                "settings": self.settings.to_dict(), "choices": self.choices.to_dict(),
                "mix": report.told.get("mix", {}).get("share"),
            },
        }  # fmt: skip

    def _report(
        self,
        tuning: Tuning,
        before: dict[str, Measured],
        after: dict[str, Measured],
        seconds: float,
    ) -> FinetuneReport:
        original = self.material.original
        figures: dict[str, dict[str, Any]] = {
            name: {"before": before[name].figures, "after": after[name].figures} for name in after
        }
        figures["held_out"]["note"] = (
            f"{len(self.material.held_out)} pictures that were not learned from."
        )
        if original is not None:
            figures["original"]["note"] = (
                f"{len(original.exam)} pictures of {original.name}; the other "
                f"{len(original.practice)} were practised."
            )
        return FinetuneReport(
            model=self.output, base=self.base.name, command=self.command, figures=figures,
            plan=self.plan.to_dict(), account=asdict(self.account),
            told={**tuning.told, "seconds": round(seconds, 1), "stages": showing.ends(self.folder),
                  "leaks": self.parts.num_leaks},
            notes=self._notes(tuning), curves=showing.curves(self.folder),
            sections=showing.sections(self.material, before, after, self.folder),
        )  # fmt: skip

    def _notes(self, tuning: Tuning) -> list[str]:
        notes = [line.removeprefix("note: ") for line in faults(self.account)]
        if self.parts.pairs:
            notes.append(
                f"{len(self.parts.pairs)} pictures nearly equal another one; such pictures are on "
                f"the same side of the hold-out, which else {self.parts.num_leaks} of their groups "
                "would not have been"
            )
        notes.append(
            "The hold-out also chose when each stage ended and, with the original pictures that "
            "are measured, how much of the new weights is mixed in, so the figures after lean a "
            "little to the good side."
        )
        if self.material.original is None:
            notes.append(
                "There were no original pictures (--original SHARDS), so what the model may have "
                "forgotten was not measured."
            )
        if "mix" in tuning.told:
            notes.append(f"{tuning.told['mix']['share']:.0%} of the new weights are in the model.")
        if few := tuning.told.get("few_steps"):
            notes.append(
                "The few-step mode "
                + ("was distilled again" if few["again"] else "is the base's")
                + f": its distance to the flow was {few['distance_before']:.3f} and became "
                f"{few['distance']:.3f} of the variance when the flow had changed."
            )
        return notes


def prepare(
    model: MMFM, *, images: str | os.PathLike[str], output: str | os.PathLike[str],
    original: str | os.PathLike[str] | None = None, kind: str | None = None, lora: bool = False,
    settings: Settings | None = None, command: str = "", is_ours: bool = False,
    say: Say = lambda line: None,
) -> Prepared:  # fmt: skip
    """Read the folder, split it, decide what is open, time a few steps. Trains nothing.

    model: on the CPU. is_ours: it is, or comes from, the model that ships, which knows the drawings
    in the package. Raises DataError on the folder, ModelError where a head cannot be made,
    InputError on settings that do not fit or too little memory, OutputError on `output`.
    """
    settings, output = settings or Settings(), Path(output)
    _expect_output(output)
    if model.device.type != "cpu":
        raise InputError(f"fine-tuning runs on the CPU, got a model on {model.device}; device=cpu")
    if lora:
        _expect_lora()
    pictures, account = read_folder(images, model.preprocess, kind=kind)
    for line in faults(account):
        say(line)
    parts = split(pictures, settings.holdout)
    knew, shared = without(
        read_original(
            original, model.preprocess, is_ours, num_new=len(pictures), seed=settings.seed
        ),
        pictures,
    )
    if shared:
        account.notes.append(f"{shared} original pictures are in the folder too: not used as such")
        say(f"note: {account.notes[-1]}")
    if original is not None and knew is None:
        account.notes.append(f"{original} holds too few other pictures to practise and to measure")
        say(f"note: {account.notes[-1]}")
    material = Material(pictures.select(parts.train), pictures.select(parts.held_out), knew)
    say(f"{len(pictures)} pictures ({account.layout}), {len(material.held_out)} held out")
    if settings.heads == (PROMPT,):
        counts = {"to learn from": len(material.captioned), "held out": len(material.measured)}
        none = Choices(heads=(), train="heads", batch_size=1, learning_rate=1.0, tower_steps=0,
                       caption_steps=0, pixel_steps=0, flow_steps=0, num_views=1,
                       precision="fp32")  # fmt: skip
        plan = Plan(counts, [], 1.0, 0, 0, none.to_dict())
        return Prepared(model, settings, none, material, account, parts, plan, output, command,
                        [], lora)  # fmt: skip
    num_captioned = len(material.captioned) if len(material.measured) > 1 else 0
    skills = [head for head in settings.heads if num_captioned or head == "decoder"]
    fresh = lacking(model, skills)
    if lora and fresh:
        raise InputError(
            f"{model.name} has no head for {' and '.join(fresh)}, and an adapter changes only what "
            "is there; leave --lora out, or take --heads contrastive"
        )
    texts = [text for said in material.captioned.captions for text in said]
    base = with_heads(model, fresh, texts, settings.seed)
    choices = choose(
        settings, base, num_captioned=num_captioned, num_pictures=len(material.new), fresh=fresh,
        lora=lora,
    )  # fmt: skip
    start = time.perf_counter()
    copied = copy_of(base)
    copying = time.perf_counter() - start
    say("timing a few steps")
    tuning = Tuning(copied, material, choices, settings, output, fresh, lora)
    plan = plan_for(tuning, output, copying)
    return Prepared(
        base, settings, choices, material, account, parts, plan, output, command, fresh, lora
    )


def _expect_lora() -> None:
    try:
        importlib.import_module("mmfm.lora")
    except ModuleNotFoundError as error:
        raise InputError(
            "low-rank adapters need peft, which is not installed; pip install peft, or take "
            "--train all"
        ) from error


def _expect_output(output: Path) -> None:
    """The place of the model must be free, or hold a model that is replaced."""
    if bundle.find(output) is not None and output.resolve().parent == bundle.WEIGHTS.resolve():
        raise OutputError(f"{output} is the model that ships; choose another folder")
    if output.exists() and not (
        output.is_dir() and (bundle.is_bundle(output) or not any(output.iterdir()))
    ):
        raise OutputError(f"{output} exists and is not an mmfm bundle; choose another folder")
    parent = next(p for p in output.absolute().parents if p.exists())
    if not os.access(parent, os.W_OK):
        raise OutputError(f"cannot write into {parent}; choose another place")
