"""In which numbers the decoder's network draws: float32, or bfloat16 where pictures stay the same.

"auto" tries bfloat16 once a machine on the first pictures that are asked for: they must come out
nearly as in float32, and clearly sooner, or float32 it stays. The log of the package says so, and
later runs remember it.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mmfm.decoder.lean import lean
from mmfm.encoders import trials
from mmfm.layers.plain import plain

GATE = 40.0  # dB, the least PSNR to float32 of a picture in a trial; it leaves 35 for all others
CLEARLY = 1.2  # times faster, or bfloat16 is not worth it
PASSES = 2  # that are timed; the fastest counts
TRIED = 4  # pictures in a trial

log = logging.getLogger("mmfm")
Draw = Callable[[Any], Tensor]  # a network -> pictures (B, 3, H, W) in [-1, 1]


@dataclass(frozen=True)
class Trial:
    """bfloat16 against float32 on the same pictures."""

    psnr: float
    speedup: float

    @property
    def passed(self) -> bool:
        return self.psnr >= GATE and self.speedup >= CLEARLY


@dataclass
class _Kept:
    """What was made of a network, as long as its weights stay as they are."""

    stamp: Any
    choice: str | None = None
    warned: bool = False
    lean: Any = field(default=None)


def network_in(precision: str, network: nn.Module, draw: Draw) -> tuple[Any, str]:
    """A decoder's network in "fp32" or "bf16", and which: "auto" is the one or the other.

    draw: draws the first pictures of a call with the network it is given, for a trial. Warns once
    when bf16 that was asked for by name changes pictures by more than the gate.
    """
    kept = _kept(network)
    if precision == "auto":
        kept.choice = kept.choice or _choice(network, kept, draw)
        precision = kept.choice
    elif precision == "bf16" and not kept.warned:
        kept.warned = True
        psnr = _psnr(draw(network), draw(_lean(network, kept)))
        if not psnr >= GATE:
            warnings.warn(
                f"precision 'bf16' changes the pictures of this model: {psnr:.1f} dB to fp32, "
                f"the gate is {GATE:.0f}", UserWarning, stacklevel=2,
            )  # fmt: skip
    return (network if precision == "fp32" else _lean(network, kept)), precision


def _choice(network: nn.Module, kept: _Kept, draw: Draw) -> str:
    tensors = {f"decoder.{k}": v for k, v in network.state_dict().items()}
    device = next(network.parameters()).device
    key = trials.key_of(tensors, device)
    found = trials.recall(key, Trial).get("bf16")
    if found is None:
        from mmfm.encoders.precision import is_worth_a_trial  # late: a remembered choice is quick

        if not is_worth_a_trial("bf16", device):
            return "fp32"
        found = _try(network, _lean(network, kept), draw)
        trials.remember(key, {"bf16": found})
        log.info(
            "drawing: precision %s (bf16 %.1f dB to fp32, %.1f times as fast)",
            "bf16" if found.passed else "fp32", found.psnr, found.speedup,
        )  # fmt: skip
    return "bf16" if found.passed else "fp32"


def _try(exact: Any, low: Any, draw: Draw) -> Trial:
    psnr = _psnr(draw(exact), draw(low))  # the first passes of all are slow
    if not psnr >= GATE:
        return Trial(psnr, 0.0)
    # why: what else a processor does must not decide how this machine draws from now on
    on_cpu = next(exact.parameters()).device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    pairs = [(_seconds(draw, exact, clock), _seconds(draw, low, clock)) for _ in range(PASSES)]
    return Trial(psnr, min(a for a, _ in pairs) / min(b for _, b in pairs))


def _psnr(exact: Tensor, low: Tensor) -> float:
    """The least of the pictures, in dB; values span 2. Equal ones count as 100 dB."""
    errors = (exact - low).square().mean(dim=(1, 2, 3)).clamp(min=4e-10)
    return float((10 * torch.log10(4 / errors)).min())


def _seconds(draw: Draw, network: Any, clock: Callable[[], float]) -> float:
    start = clock()
    draw(network).sum().item()  # waits for a GPU
    return clock() - start


def _lean(network: nn.Module, kept: _Kept) -> Any:
    if kept.lean is None:
        kept.lean = lean(plain(network))
    return kept.lean


def _kept(network: nn.Module) -> _Kept:
    stamp = tuple(
        (p.data_ptr(), 0 if p.is_inference() else p._version) for p in network.parameters()
    )
    if network not in _KEPT or _KEPT[network].stamp != stamp:
        _KEPT[network] = _Kept(stamp)
    return _KEPT[network]


_KEPT: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()
