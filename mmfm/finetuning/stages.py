"""The stages of a fine-tuning, in order: search, mix, new words, captions, pixels, flow, few steps.

Towers learn first, with the heads that can; then nothing of them changes any more, every picture is
encoded once, in a few views, and the heads learn from what was said of it.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from mmfm.data.packed import PackedPictures
from mmfm.finetuning import mixing
from mmfm.finetuning.adaptation import AdaptationTask, Adapted, Before, Weights
from mmfm.finetuning.choices import Choices, freeze_towers
from mmfm.finetuning.looking import look, read
from mmfm.finetuning.material import Material
from mmfm.finetuning.new_words import NewWordsTask, known_pieces, new_pieces, strange_beginnings
from mmfm.finetuning.original import known_words
from mmfm.finetuning.pictures import Pictures
from mmfm.finetuning.projections import Projections, ProjectionTask, fold
from mmfm.finetuning.settings import Settings
from mmfm.finetuning.speaking import learn_to_speak
from mmfm.finetuning.watch import Rows, run_stage
from mmfm.finetuning.words import grown
from mmfm.model import MMFM
from mmfm.training.caption import CaptionData, CaptionTask
from mmfm.training.few_steps import FewStepsTask
from mmfm.training.flow import FlowData, FlowTask
from mmfm.training.loop import LoopConfig
from mmfm.training.reconstruction import ReconstructionData, ReconstructionTask
from mmfm.training.seen import SeenInMemory, SeenViews
from mmfm.training.task import Task

_WORD_BATCH, _WORD_RATE = 64, 1e-2  # of rows for new words
_SHOWN = 16  # pictures of which the caption head is asked whether it knows a word
_MOST_WORDS = 6000  # that the towers are held to
_FEW_STEPS, _FEW_BATCH = 40, 32  # updates of the few-step mode, where it must learn again
_TOO_FAR = 1.5  # times its former distance to the flow
_EVALUATIONS = {"flow": 4, "few_steps": 2}  # of a stage, where each costs more than a few steps


@dataclass
class Tuning:
    """A model in the making: `model` is a copy, changed by each stage in turn.

    known_words: what the model could read before. new_tokens: of the folder's captions, what it
    could not. told: what the stages found, for the report.
    """

    model: MMFM
    material: Material
    choices: Choices
    settings: Settings
    folder: Path
    fresh: list[str] = field(default_factory=list)
    lora: bool = False  # all parts learn low-rank changes, and stay as they are else
    stop: Callable[[], bool] = lambda: False
    told: dict[str, Any] = field(default_factory=dict)
    spoke: dict[str, Any] = field(default_factory=dict)  # the caption head before the towers learn
    known_words: list[str] = field(init=False)
    new_tokens: list[int] = field(init=False)

    def __post_init__(self) -> None:
        original = self.material.original
        names = [] if original is None else [said[0] for said in original.practice.captions]
        # asked at once: the caption head gets the folder's words among its own
        vocabulary = None if "caption" in self.fresh else self.model.vocabulary
        self.known_words = known_words(vocabulary, names)
        captions = self.material.captioned.captions
        known = known_pieces(self.model.backbone, vocabulary, names)
        if vocabulary is not None and self.model.captioner is not None and captions:
            few = self.material.captioned.select(range(min(_SHOWN, len(captions))))
            seen = look(self.model.backbone, few.squares).views[0].take(np.arange(len(few)))
            known -= strange_beginnings(self.model.captioner, vocabulary, seen, captions)
        self.new_tokens = new_pieces(self.model.backbone, captions, known)

    # ------------------------------------------------------------------ the tasks

    def adaptation(self) -> tuple[AdaptationTask, Rows]:
        """Towers, and the heads that learn with them."""
        model, material = self.model, self.material
        pictures, is_original = material.practised(material.captioned)
        words = self.known_words[:_MOST_WORDS]
        has = self.choices.heads
        if "caption" in has and model.captioner is not None and not self.lora:
            self.grow_vocabulary()
        backbone = model.backbone
        frozen = look(backbone, pictures.squares)
        before = Before(frozen, words, read(backbone, words), is_original)
        if self.choices.train == "lora":
            self._low_rank(backbone)
        else:
            freeze_towers(backbone, self.choices.train)
        # why not with adapters: these parts would change whole beside them
        captioner = model.captioner if "caption" in has and not self.lora else None
        pixel_decoder = model.pixel_decoder if "decoder" in has and not self.lora else None
        exam = None if material.original is None else material.original.exam.squares
        task = AdaptationTask(
            Adapted(backbone, captioner, pixel_decoder), model.vocabulary, pictures.squares,
            before, material.measured.squares, exam, self._weights(),
        )  # fmt: skip
        return task, self._rows(pictures, is_original)

    def projection(self) -> tuple[ProjectionTask, Rows]:
        """Search with frozen towers, on cached vectors."""
        backbone, material = self.model.backbone, self.material
        pictures, is_original = material.practised(material.captioned)
        exam = None if material.original is None else material.original.exam
        measured = [p for p in (material.measured, exam) if p is not None]
        texts = list(dict.fromkeys(
            text for part in (pictures, *measured) for said in part.captions for text in said
        ))  # fmt: skip
        vectors = dict(zip(texts, read(backbone, texts)))
        pairs = [
            (look(backbone, p.squares).take(np.arange(len(p)), grids=False).pooled,
             [said[0] for said in p.captions])
            for p in measured
        ]  # fmt: skip
        task = ProjectionTask(
            backbone, self._views(pictures.squares), pictures.captions, vectors, pairs[0],
            pairs[1] if len(pairs) > 1 else None, self.settings.keep,
        )  # fmt: skip
        return task, self._rows(pictures, is_original)

    def new_words(self) -> tuple[NewWordsTask, Rows] | None:
        """Rows of the text tower for words that nobody has read yet; None without such words."""
        backbone, material = self.model.backbone, self.material
        if not self.new_tokens:
            return None
        pictures, held = material.practised(material.captioned)[0], material.measured
        seen = self._views(pictures.squares)
        asked = (look(backbone, held.squares).views[0].pooled, held.captions)
        task = NewWordsTask(backbone, self.new_tokens, seen, pictures.captions, asked)
        size = min(_WORD_BATCH, int(task.visits.sum()))
        return task, Rows(task.visits, size, self.settings.seed, pictures.keys)

    def captions(self) -> tuple[CaptionTask, Rows]:
        model, material = self.model, self.material
        assert model.captioner is not None and model.vocabulary is not None
        pictures, is_original = material.practised(material.captioned)
        learned = CaptionData(
            self._views(pictures.squares), pictures.captions, pictures.squares.meta
        )
        held = material.measured
        asked = CaptionData(look(model.backbone, held.squares), held.captions, held.squares.meta)
        task = CaptionTask(model.captioner, model.vocabulary, learned, asked, slices=2)
        return task, self._rows(pictures, is_original)

    def pixels(self) -> tuple[ReconstructionTask, Rows]:
        pictures, is_original = self.material.practised(self.material.new)
        held = self.material.held_out.squares
        assert self.model.pixel_decoder is not None
        task = ReconstructionTask(
            self.model.pixel_decoder,
            ReconstructionData(self._first(pictures.squares), pictures.squares),
            ReconstructionData(self._first(held), held),
        )
        return task, self._rows(pictures, is_original)

    def flow_data(self) -> tuple[FlowData, FlowData, Rows]:
        """Of what is learned from and of the hold-out; a picture without caption has an empty one,
        so that an empty prompt draws in the style of the set."""
        model = self.model
        pictures, is_original = self.material.practised(self.material.new)
        with torch.no_grad():
            seen, held = (
                FlowData(model.backbone, model.decoder, named, self._first(named))
                for named in map(_named, (pictures.squares, self.material.held_out.squares))
            )
            if "decoder" in self.fresh:
                seen.fit_space()
        return seen, held, self._rows(pictures, is_original)

    # ------------------------------------------------------------------ running them

    def run(self) -> None:
        """Every stage that `choices` asks for; what a stage found is in `told`."""
        choices, model = self.choices, self.model
        if choices.trains_towers:
            self._towers()
        elif choices.tower_steps:
            self._projections()
        model.backbone.requires_grad_(False)
        if choices.tower_steps and not self.lora:
            self._new_words()
        if choices.caption_steps:
            if self.lora:
                self._low_rank(model.captioner)
            else:
                model.captioner.requires_grad_(True)
            learn_to_speak(self)
        if choices.pixel_steps and not self.lora:
            pixels, rows = self.pixels()
            pixels.module.requires_grad_(True)
            rate = 1e-3 if "decoder" in self.fresh else 3e-4
            self.stage("pixels", pixels, rows, choices.pixel_steps, rate,
                        lambda n: n["held_out_psnr"])  # fmt: skip
        if choices.flow_steps:
            self._flow()

    @property
    def word_steps(self) -> int:
        """Of a stage that learns rows for new words: a few rows learn as fast from few pictures."""
        return self.settings.steps or 200

    def grow_vocabulary(self) -> None:
        """Give the caption head the tokens of the folder; once they are there, nothing changes."""
        model = self.model
        texts = [text for said in self.material.captioned.captions for text in said]
        model.captioner, model.vocabulary = grown(model.captioner, model.vocabulary, texts)
        model.config = replace(model.config, captioner=model.captioner.config)

    def _towers(self) -> None:
        task, rows = self.adaptation()
        module = task.module
        old = {k: v.detach().clone() for k, v in module.state_dict().items()}
        head = "captioner."
        self.spoke = {k.removeprefix(head): v for k, v in old.items() if k.startswith(head)}
        before = task.evaluate(module.eval())[0]
        self.stage("towers", task, rows, self.choices.tower_steps, self.choices.learning_rate,
                   lambda n: n["held_out_mrr"])  # fmt: skip
        if self.lora or self.choices.train == "lora":
            self.told["mix"] = {"share": 1.0, "before": before, "tries": []}
            if not self.lora:
                _lora().merge(module.backbone)
            return
        self._mix(module, old, lambda: task.evaluate(module.eval())[0], before)

    def _projections(self) -> None:
        task, rows = self.projection()
        module = task.module
        old = {k: v.detach().clone() for k, v in module.state_dict().items()}
        before = task.evaluate(module)[0]
        self.stage("projections", task, rows, self.choices.tower_steps, 1e-3,
                   lambda n: n["held_out_mrr"])  # fmt: skip
        self._mix(module, old, lambda: task.evaluate(module)[0], before)
        fold(self.model.backbone, module)
        self._turn(module)

    def _mix(self, module: Any, old: Mapping[str, Any], measure: Callable, before: dict) -> None:
        new = {k: v.detach().clone() for k, v in module.state_dict().items()}
        shares = mixing.SHARES if self.settings.mix is None else (self.settings.mix,)
        with torch.no_grad():
            pick = mixing.little_lost(before)
            share, tries = mixing.choose(module, old, new, measure, pick, shares)
        self.told["mix"] = {"share": share, "before": before, "tries": tries}

    def _new_words(self) -> None:
        found = self.new_words()
        if found is None:
            return
        task, rows = found
        self.stage("new_words", task, rows, self.word_steps, _WORD_RATE,
                   lambda n: n["held_out_cosine"])  # fmt: skip
        task.module.write(self.model.backbone)
        self.told["new_words"] = len(task.module.ids)

    def _flow(self) -> None:
        decoder = self.model.decoder
        seen, held, rows = self.flow_data()
        few = few_task(self, seen, held, rows)
        known = 0.0 if few is None else self._distance(few[0])
        if self.lora:
            self._low_rank(decoder)
        else:
            decoder.requires_grad_(True)
        self.stage("flow", FlowTask(decoder, seen, held), rows, self.choices.flow_steps,
                   8e-4 if "decoder" in self.fresh else 3e-4, _flow_score)  # fmt: skip
        if few is not None:
            self._few_steps(*few, known)

    def _few_steps(self, task: FewStepsTask, rows: Rows, steps: int, known: float) -> None:
        """Distil the few-step mode again, only where it no longer follows the changed flow."""
        now = self._distance(task)
        again = now > _TOO_FAR * known
        self.told["few_steps"] = {"distance_before": known, "distance": now, "again": again}
        if again:
            self.stage("few_steps", task, rows, steps, 1e-3, lambda n: -n["distance"])

    def _distance(self, task: FewStepsTask) -> float:
        torch.manual_seed(self.settings.seed)
        with torch.no_grad():
            return task.evaluate(task.module)[0]["distance"]

    def stage(
        self, name: str, task: Task, rows: Rows, steps: int, rate: float,
        score: Callable[[Mapping[str, Any]], float], *, weight_decay: float = 0.05,
    ) -> None:  # fmt: skip
        """Run or resume one; afterwards `task.module` has the weights of its best step."""
        loop = LoopConfig(
            num_steps=steps, learning_rate=rate, warmup_steps=max(1, min(20, steps // 5)),
            weight_decay=weight_decay, ema_decay=0.98, seed=self.settings.seed,
            precision=self.choices.precision,
            log_every=max(1, steps // 10),
            evaluate_every=max(10, -(-steps // _EVALUATIONS.get(name, 8))),
            save_every=max(5, steps // 8),
        )  # fmt: skip
        decisive = {"settings": self.settings.to_dict(), "choices": self.choices.to_dict()}
        run_stage(task, rows, loop, self.folder / name, patience=self.settings.patience,
                  score=score, settings=decisive, stop=self.stop)  # fmt: skip

    def _rows(self, pictures: Pictures, is_original: np.ndarray) -> Rows:
        """New pictures once an epoch, original ones so that they are the share `replay`."""
        new, old = int((~is_original).sum()), int(is_original.sum())
        share = self.settings.replay
        weights = np.where(is_original, share / (1 - share) * new / max(1, old), 1.0)
        size = min(self.choices.batch_size, int(weights.sum()))
        return Rows(weights, size, self.settings.seed, pictures.keys)

    def _weights(self) -> Weights:
        plain = Weights()
        kept = {f.name: getattr(plain, f.name) * self.settings.keep
                for f in fields(Weights) if f.name.startswith("keep_")}  # fmt: skip
        return replace(plain, **kept)

    @cached_property
    def _looked(self) -> dict[str, SeenViews]:
        return {}

    def _views(self, squares: PackedPictures) -> SeenViews:
        """What the towers say of the squares now, in `num_views` views; kept until they change."""
        key = f"{len(squares)} {squares.keys[0]} {squares.keys[-1]}"
        if key not in self._looked:
            self._looked[key] = look(
                self.model.backbone, squares, num_views=self.choices.num_views,
                seed=self.settings.seed, bf16=self.choices.precision == "bf16",
            )  # fmt: skip
        return self._looked[key]

    def _first(self, squares: PackedPictures) -> SeenInMemory:
        key = f"{len(squares)} {squares.keys[0]} {squares.keys[-1]}"
        if key in self._looked:
            return self._looked[key].views[0]
        return look(self.model.backbone, squares).views[0]

    def _turn(self, maps: Projections) -> None:
        """Cached vectors as the folded towers would say them: the towers need not run again."""
        with torch.no_grad():
            for key, seen in self._looked.items():
                self._looked[key] = SeenViews([
                    SeenInMemory(F.normalize(v.pooled @ maps.pictures, dim=-1), v.tokens)
                    for v in seen.views
                ])  # fmt: skip

    def _low_rank(self, module: Any) -> None:
        _lora().add(module, rank=self.settings.rank)


def few_task(
    tuning: Tuning, seen: FlowData, held: FlowData, rows: Rows
) -> tuple[FewStepsTask, Rows, int] | None:
    """The few-step mode distilled again from the changed flow, and its steps; None without it."""
    decoder = tuning.model.decoder
    if decoder.few_steps is None or tuning.lora:
        return None
    small = Rows(rows.weights, min(_FEW_BATCH, rows.batch_size), rows.seed, rows.keys)
    return FewStepsTask(decoder, seen, held), small, min(_FEW_STEPS, tuning.choices.flow_steps)


def _lora() -> Any:
    return importlib.import_module("mmfm.lora")


def _flow_score(numbers: Mapping[str, Any]) -> float:
    return -sum(value for name, value in numbers.items() if name.startswith("held_out_loss"))


def _named(squares: PackedPictures) -> PackedPictures:
    return replace(squares, captions=[said or ("",) for said in squares.captions])


def copy_of(model: MMFM) -> MMFM:
    """The same model in modules of its own; what they share they share in the copy too."""
    parts = copy.deepcopy({k: v for k, v in model.parts.items() if k != "autoencoder"})
    return MMFM(model.config, parts.pop("backbone"), vocabulary=model.vocabulary,
                metrics=model.metrics, device=str(model.device), **parts)  # fmt: skip
