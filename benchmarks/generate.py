"""Drawing pictures: `model.generate` against a plain loop around the same network and weights.

The plain loop is the one of diffusers' pipelines: its Euler scheduler, the condition and its
negative in one batch at every step, all of the network at every step, float32. First the same
steps; then the fewest steps that draw as well against 100 evaluations of the network (50 guided
steps), as an independent judge sees it; last a picture from a cold start, against importing torch.
Both sides encode the texts; ours also checks its arguments, and makes the choice of a precision,
in the first round, which is not measured.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import Options, interleave, options, report, versions

PROMPTS = (
    "a red apple", "red heart", "yellow smiling face", "pizza", "sun", "tree", "blue car",
    "flag of France", "house", "dog face", "rainbow", "soccer ball", "a green frog", "cat face",
    "umbrella", "a purple flower",
)  # fmt: skip
EVALUATIONS = 100  # of the long run: half of them with the prompt, half without
PSNR = 35.0  # dB, the least of any picture, against the plain loop
AS_GOOD = 0.9  # of the share that the judge names right
PEERS = ("diffusers", "torch")


def plain_loop(model: Any, said: Any, seeds: list[int], num_steps: int, scale: float) -> Any:
    """(B, 3, H, W) as a diffusers pipeline draws: no step knows what the one before computed."""
    import torch
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    from mmfm.decoder.network import Condition
    from mmfm.decoder.sampler import noise

    decoder, config = model.decoder, model.decoder.config
    scheduler = FlowMatchEulerDiscreteScheduler(shift=config.shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / num_steps, num_steps))
    x = noise(seeds, (config.channels, config.map_size, config.map_size))
    for sigma, time in zip(scheduler.sigmas[:-1], scheduler.timesteps):
        t = torch.full((2 * len(x),), 1 - float(sigma))
        told = Condition.stack([decoder._nothing(said), decoder._told(said)])
        without, with_it = decoder.network(torch.cat([x, x]), t, told).chunk(2)
        clean = without + scale * (with_it - without)
        x = scheduler.step((x - clean) / sigma, time, x, return_dict=False)[0]
    return decoder.space.decode(x).clamp(-1, 1)


class Desk:
    """A model, prompts, and both ways to draw them from the same noise."""

    def __init__(self, model: Any, prompts: list[str]) -> None:
        from mmfm.decoder.sampler import picture_seed

        self.model, self.prompts = model, prompts
        self.scale = float(model.config.generation.get("guidance_scale", 4.5))
        self.seeds = [picture_seed(0, 0)] * len(prompts)  # as generate(seed=0) has them

    def ours(self, **how: Any) -> Any:
        return self.model.generate(self.prompts, seed=0, output="pt", **how)

    def plain(self, num_steps: int) -> Any:
        import torch

        with torch.inference_mode():
            said = self.model._read(self.prompts)
            return plain_loop(self.model, said, self.seeds, num_steps, self.scale)


def least_psnr(a: Any, b: Any) -> float:
    """Of pairs of pictures in [-1, 1], dB; equal ones count as 100."""
    import torch

    errors = (a - b).square().mean(dim=(1, 2, 3)).clamp(min=4e-10)
    return float((10 * torch.log10(4 / errors)).min())


def same_steps(model: Any, prompts: list[str], rounds: int, name: str) -> None:
    steps = int(model.config.generation.get("num_steps", 25))
    desk = Desk(model, prompts)
    measured = interleave(lambda: desk.ours(num_steps=steps), lambda: desk.plain(steps), rounds)
    psnr = least_psnr(measured.our_output, measured.peer_output)
    report(
        "generate", f"{model.name}, {name}, {steps} guided steps", measured, amount=len(prompts),
        unit="pictures", gate={"psnr": round(psnr, 1)}, equal=psnr >= PSNR,
        peer_version=versions(*PEERS),
    )  # fmt: skip


def few_steps(model: Any, prompts: list[str], quality: Callable, rounds: int) -> None:
    count = getattr(model.config.decoder, "few_steps", 0)
    if not count:
        print(f"generate: {model.name} has no few-step mode, that case is left out",
              file=sys.stderr)  # fmt: skip
        return
    desk = Desk(model, prompts)
    measured = interleave(
        lambda: desk.ours(sampler="few"), lambda: desk.plain(EVALUATIONS // 2), min(rounds, 3)
    )
    # why all names and our own loop: few pictures tell little, and it draws the peer's, only sooner
    ours, peer = quality(sampler="few"), quality(num_steps=EVALUATIONS // 2)
    report(
        "generate", f"{model.name}, {count} evaluations against {EVALUATIONS}", measured,
        amount=len(prompts), unit="pictures",
        gate={"named_right": round(ours, 4), "named_right_of_peer": round(peer, 4)},
        equal=ours >= AS_GOOD * peer, peer_version=versions(*PEERS),
    )  # fmt: skip


def judged(model: Any) -> tuple[list[str], Callable[..., float]]:
    """Names that the independent judge knows, and which share of pictures drawn for them it names
    right: {settings of generate} -> share.
    """
    from mmfm.evaluation.judge import Judge

    judge = Judge.load()
    numbers = np.arange(len(judge.classes))
    chosen = np.linspace(0, len(numbers) - 1, 4 * len(PROMPTS)).astype(int)

    def named_right(**how: Any) -> float:
        pictures = model.generate(list(judge.classes), seed=0, **how)
        return float((judge.look(pictures).probabilities.argmax(axis=1) == numbers).mean())

    return [judge.classes[number] for number in chosen], named_right


def children_seconds() -> float:
    """CPU seconds, user and system, of all processes started here that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cold_start(folder: Path, name: str, place: Path, model: Any, rounds: int) -> None:
    import torch
    from PIL import Image

    out = place / "out.png"

    def ours() -> str:
        return _run("-m", "mmfm", "generate", PROMPTS[0], "-o", str(out), "--seed", "0",
                    "--model", str(folder), "--device", "cpu", "--json")  # fmt: skip

    measured = interleave(ours, lambda: _run("-c", "import torch"), min(rounds, 5),
                          clock=children_seconds)  # fmt: skip
    [wanted] = model.generate(PROMPTS[0], seed=json.loads(measured.our_output)["seed"])
    with Image.open(out) as made:
        pair = [torch.from_numpy(np.array(p)).permute(2, 0, 1)[None] / 127.5 - 1
                for p in (made, wanted)]  # fmt: skip
    psnr = least_psnr(*pair)
    report(
        "generate", f"{name}, a picture from a cold start, against importing torch", measured,
        amount=1, unit="starts", gate={"psnr": round(psnr, 1)}, equal=psnr >= PSNR,
        peer_version=versions("torch"),
    )  # fmt: skip


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(arguments[:3])} failed:\n{done.stderr}")
    return done.stdout


def main(given: Options) -> None:
    import torch

    import mmfm
    from benchmarks.cold_start import own_cache

    torch.set_num_threads(1)
    with own_cache() as place:
        model = mmfm.load(given.folder, device="cpu")
        same_steps(model, list(PROMPTS), given.rounds, f"{len(PROMPTS)} pictures")
        same_steps(mmfm.load(given.folder, device="cpu"), [PROMPTS[0]], given.rounds, "one picture")
        model = mmfm.load(given.folder, device="cpu")
        cold_start(given.folder, model.name, place, model, given.rounds)
        few = mmfm.load(given.folder, device="cpu")
        few_steps(few, *judged(few), given.rounds)


if __name__ == "__main__":
    main(options(__doc__))
