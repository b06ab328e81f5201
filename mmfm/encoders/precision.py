"""In which numbers a tower computes: float32, bfloat16, 8-bit integers, or ONNX Runtime.

What is fastest differs from one processor to the next by more than an order of magnitude (bfloat16
is twice as fast as float32 on some and thirty times slower on others), and what is lost differs
from one model to the next. So "auto" tries what there is, once, on real inputs: a precision must
give the vectors of float32 up to a cosine, and be clearly faster, or float32 it stays.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfm.encoders import bf16, int8, lean, trials
from mmfm.encoders.cache_folder import cache_folder
from mmfm.encoders.copies import tower_tensors, with_tower
from mmfm.encoders.samples import enough
from mmfm.encoders.towers import text_tower
from mmfm.encoders.trials import Trial, Trials
from mmfm.errors import InputError
from mmfm.layers.plain import plain

GATES = {"bf16": 0.9999, "int8": 0.999, "onnx": 0.99999}  # least cosine to float32 of any input
PRECISIONS = ("auto", "fp32", *GATES)
TOWERS = ("image", "text")
CLEARLY = 1.2  # times faster, or a lower precision is not worth it
PASS_SECONDS = 0.4  # of a float32 pass in a trial: all passes of a trial take about 2 seconds
PASSES = 2  # that are timed; the fastest counts

log = logging.getLogger("mmfm")


class Encoder:
    """One tower in one precision: a batch of its inputs -> (B, D) float32, unit length.

    Pixels are (B, 3, H, W), normalised; texts are ids (B, T). A vector does not depend on what
    else is in the batch.
    """

    def __init__(self, name: str, encode: lean.Map) -> None:
        self.name = name  # the precision
        self._encode = encode

    @torch.inference_mode()
    def __call__(self, inputs: Tensor) -> Tensor:
        return F.normalize(self._encode(inputs).float(), dim=-1)

    images = texts = __call__


def encoder(backbone: Any, precision: str, tower: str, samples: Tensor | None = None) -> Encoder:
    """The encoder of a backbone's "image" or "text" tower in a precision of `PRECISIONS`.

    samples: real inputs at hand, for trials; the package's own are added to few. Made once and kept
    as long as backbone and weights are the same; so is what "auto" chose, which the log of the
    package says, and which later runs find in the cache folder.
    Raises InputError for an unknown precision, or one that cannot be had here; warns when one that
    was asked for by name misses its gate.
    """
    if precision not in PRECISIONS or tower not in TOWERS:
        raise InputError(
            f"got precision {precision!r} of tower {tower!r}, wanted one of "
            f"{', '.join(PRECISIONS)} of image or text"
        )
    state = _Tower.of(backbone, tower)
    name = state.choose(samples) if precision == "auto" else precision
    if name != "fp32" and name == precision:
        state.check(name, samples)
    return state.encoder(name)


def chosen(backbone: Any) -> dict[str, str]:
    """What "auto" has chosen so far: {"image": "int8", ...}."""
    kept = backbone.__dict__.get(_KEPT, {})
    return {tower: state.choice for tower, state in kept.items() if state.choice}


def why_not(backbone: Any, precision: str) -> str | None:
    """Why a precision cannot be had for a model where it is now, in words; None when it can."""
    device = _device(backbone)
    if precision == "int8":
        if device.type != "cpu":
            return f"it is for processors, and the model is on {device}"
        return int8.why_not()
    if precision == "onnx":
        return _why_not_onnx(device)
    return None


class _Tower:
    """Encoders, trials and the choice of one tower, as long as its weights stay as they are."""

    def __init__(self, backbone: Any, tower: str, stamp: Any) -> None:
        self.backbone, self.tower, self.stamp = backbone, tower, stamp
        self.choice: str | None = None
        self._encoders: dict[str, Encoder] = {}
        self._told: set[str] = set()

    @classmethod
    def of(cls, backbone: Any, tower: str) -> _Tower:
        kept = backbone.__dict__.setdefault(_KEPT, _Kept())
        stamp = _stamp(backbone, tower)
        if tower not in kept or kept[tower].stamp != stamp:
            kept[tower] = cls(backbone, tower, stamp)
        return kept[tower]

    def encoder(self, name: str) -> Encoder:
        if name not in self._encoders:
            if reason := why_not(self.backbone, name):
                raise InputError(
                    f"precision {name!r} is not available here: {reason}; use 'fp32' or 'auto'"
                )
            self._encoders[name] = Encoder(name, _MAKERS[name](plain(self.backbone), self.tower))
        return self._encoders[name]

    def choose(self, samples: Tensor | None) -> str:
        """What "auto" stands for."""
        if self.choice is None:
            names = [name for name in GATES if self._may_be_chosen(name)]
            before, found = self._known(), self._trials(names, samples)
            fast = {
                name: trial.speedup
                for name, trial in found.items()
                if name in names and trial.cosine >= GATES[name]
                and trial.speedup is not None and trial.speedup >= CLEARLY
            }  # fmt: skip
            self.choice = max(fast, key=lambda name: fast[name], default="fp32")
            tried = ", ".join(f"{name} {_words(trial)}" for name, trial in sorted(found.items()))
            level = logging.DEBUG if before == found else logging.INFO  # told once a machine
            log.log(level, "%ss: precision %s (%s)", self.tower, self.choice, tried or "no other")
            for name in set(self._encoders) - {self.choice, "fp32"}:
                del self._encoders[name]  # weights of what was tried and not taken
        return self.choice

    def _may_be_chosen(self, name: str) -> bool:
        if why_not(self.backbone, name) is not None:
            return False
        if name == "onnx":  # exporting takes half a minute: for those who ask, and then for all
            folder = cache_folder("onnx")
            return folder.is_dir() and (folder / self.backbone.hash()).is_dir()
        return is_worth_a_trial(name, _device(self.backbone))

    def check(self, name: str, samples: Tensor | None) -> None:
        """Warn, once, when a precision that was asked for by name misses its gate."""
        self.encoder(name)
        if name in self._told:
            return
        self._told.add(name)
        cosine = self._trials([name], samples, timed=False)[name].cosine
        if not cosine >= GATES[name]:
            warnings.warn(
                f"precision {name!r} changes the {self.tower} vectors of this model: the least "
                f"cosine to fp32 on real inputs is {cosine:.5f}, the gate {GATES[name]}",
                UserWarning,
                stacklevel=4,
            )

    def _trials(self, names: list[str], samples: Tensor | None, timed: bool = True) -> Trials:
        found = self._known()
        missing = [
            name for name in names
            if name not in found or (timed and found[name].speedup is None)
        ]  # fmt: skip
        if missing:
            inputs = enough(samples, self.backbone, self.tower).to(_device(self.backbone))
            found |= self._try(missing, inputs, timed)
            trials.remember(self._key(), found)
        return found

    def _known(self) -> Trials:
        return trials.recall(self._key())

    def _key(self) -> str:
        tensors = tower_tensors(self.backbone.towers, self.tower)
        return trials.key_of(tensors, _device(self.backbone))

    @torch.inference_mode()
    def _try(self, names: list[str], inputs: Tensor, timed: bool) -> Trials:
        exact = self.encoder("fp32")
        exact(inputs[:1])  # the first pass of all is slow
        few = max(2, int(PASS_SECONDS / max(_seconds(exact, inputs[:1]), 1e-9)))
        inputs = inputs[:few]
        wanted, found = exact(inputs), {}
        for name in names:
            encode = self.encoder(name)
            cosine = float((encode(inputs) * wanted).sum(dim=1).min())
            speedup = None
            if timed and cosine >= GATES[name]:
                pairs = [(_seconds(exact, inputs), _seconds(encode, inputs)) for _ in range(PASSES)]
                speedup = min(a for a, _ in pairs) / min(b for _, b in pairs)
            elif timed:
                speedup = 0.0  # why time what is not taken
            found[name] = Trial(cosine, speedup)
        return found


class _Kept(dict[str, _Tower]):
    """The towers of a backbone. Copies and pickles of a backbone begin without."""

    def __reduce__(self) -> Any:
        return _Kept, ()


_KEPT = "_precisions"  # the attribute of a backbone: what is kept goes when it goes


def _fp32(backbone: Any, tower: str) -> lean.Map:
    towers = backbone.towers
    if tower == "image":
        return lean.image_tower(towers) or towers.encode_image
    return lean.text_tower(towers) or _text_features(towers)


def _int8(backbone: Any, tower: str) -> lean.Map:
    towers = backbone.towers
    if tower == "image":
        if quick := lean.image_tower(towers, int8.linear):
            return quick
        return with_tower(towers, tower, _as_it_is, int8.swap_linears).encode_image
    # why: a quarter of a text tower's error comes from this map, a twelfth of its work
    if quick := lean.text_tower(towers, int8.linear, make_out=lean.dense):
        return quick
    return _text_features(with_tower(towers, tower, _as_it_is, int8.swap_linears))


def _bf16(backbone: Any, tower: str) -> lean.Map:
    # why cast once: autocast casts the weights anew at every call, at half the speed of float32
    towers = with_tower(backbone.towers, tower, _to_bf16, lambda module: None)
    if tower == "image":
        encode = lean.image_tower(towers, bf16.linear) or towers.encode_image
        return lambda images: encode(images.bfloat16())
    return lean.text_tower(towers, bf16.linear) or _text_features(towers)


def _text_features(towers: nn.Module) -> lean.Map:
    tower = text_tower(towers)
    return lambda ids: tower.read(ids)[0]


def _onnx(backbone: Any, tower: str) -> lean.Map:
    from mmfm.encoders import onnx

    folder = cache_folder("onnx") / backbone.hash()
    if not (folder / onnx.FACTS_FILE).is_file():
        log.info("exporting both towers to %s, once for this model", folder)
        onnx.export(backbone, folder)
    both = _SESSIONS.get(folder) or onnx.OnnxEncoder(folder)
    _SESSIONS[folder] = both
    return both.images if tower == "image" else both.texts


# one session serves both towers, as long as an encoder of either is there
_SESSIONS: WeakValueDictionary[Path, Any] = WeakValueDictionary()


def _why_not_onnx(device: torch.device) -> str | None:
    if device.type != "cpu":
        return f"it runs on processors, and the model is on {device}"
    missing = [name for name in ("onnxruntime", "onnx", "onnxscript") if not find_spec(name)]
    return f"it needs {missing[0]} (pip install 'mmfm[onnx]')" if missing else None


def is_worth_a_trial(name: str, device: torch.device) -> bool:
    """Where float32 is emulated in pieces of bfloat16 one pass of a tower takes minutes; a product
    of two small matrices says so at once.
    """
    if name != "bf16":
        return True
    exact = torch.ones(64, 512, device=device), torch.ones(512, 512, device=device)
    short = tuple(matrix.bfloat16() for matrix in exact)
    times = {}
    for pair in (exact, short):
        torch.mm(*pair)
        times[pair[0].dtype] = min(_seconds(torch.mm, *pair) for _ in range(5))
    return times[torch.float32] >= CLEARLY * times[torch.bfloat16]


def _seconds(compute: Callable[..., Any], *inputs: Tensor) -> float:
    # why: what else a processor does must not decide how this machine embeds from now on
    clock = time.process_time if inputs[0].device.type == "cpu" else time.perf_counter
    start = clock()
    compute(*inputs)
    if inputs[0].is_cuda:
        torch.cuda.synchronize(inputs[0].device)
    return clock() - start


def _words(trial: Trial) -> str:
    speed = f", {trial.speedup:.1f} times as fast as fp32" if trial.speedup else ""
    return f"cosine {trial.cosine:.5f}{speed}"


def _device(backbone: Any) -> torch.device:
    return next(backbone.towers.parameters()).device


def _stamp(backbone: Any, tower: str) -> Any:
    """Changes when a weight of the tower is trained, loaded or moved."""
    return tuple(
        (value.data_ptr(), 0 if value.is_inference() else value._version)
        for value in tower_tensors(backbone.towers, tower).values()
    )


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _to_bf16(tensor: Tensor) -> Tensor:
    return tensor.detach().bfloat16() if tensor.is_floating_point() else tensor


_MAKERS: dict[str, Callable[[Any, str], lean.Map]] = {
    "fp32": _fp32, "bf16": _bf16, "int8": _int8, "onnx": _onnx,
}  # fmt: skip
