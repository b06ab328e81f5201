"""A small real task for the loop, children that train, and twelve drawings."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmfm.data.packed import PackedPictures
from tests.training.small_tasks import LineTask

ROOT = Path(__file__).parents[2]


@pytest.fixture
def make_task():
    return LineTask


class Child:
    """A process of the nursery that trains in `folder`."""

    def __init__(self, nursery, number, errors):
        self.nursery, self.number, self._errors = nursery, number, errors

    def kill(self, how=signal.SIGKILL):
        os.kill(self.number, how)

    def wait(self):
        """Its exit code, or minus the signal that ended it."""
        code = self.nursery.ask(wait=self.number)
        self.nursery.alive.discard(self.number)
        return code

    def lives(self):
        return self.nursery.ask(lives=self.number)

    def errors(self):
        return self._errors.read_text()


class Nursery:
    """One process that has imported torch; its children start at once."""

    def __init__(self, folder):
        self.folder, self.count, self.alive = folder, 0, set()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.training.nursery"], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )  # fmt: skip

    def ask(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, scenario, env=None, **said):
        self.count += 1
        errors = self.folder / f"{self.count}.err"
        errors.touch()
        said = {k: str(v) if isinstance(v, Path) else v for k, v in said.items()}
        number = self.ask(start=scenario, errors=str(errors), env=env or {}, **said)
        self.alive.add(number)
        return Child(self, number, errors)

    def start_many(self, count, scenario, **said):
        """`count` processes that train together, as torchrun would start them."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
        ranks = [{**env, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(count)]
        return [self.start(scenario, env=rank, **said) for rank in ranks]

    def close(self):
        for number in self.alive:
            os.kill(number, signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


@pytest.fixture
def wait_for():
    """Wait until a file is there, or fail when the child that should make it has ended."""

    def wait(path, child):
        while not path.exists():
            assert child.lives(), child.errors()
            time.sleep(0.005)

    return wait


class EveryDrawing:
    """All twelve in every batch."""

    def batch(self, step):
        return np.arange(12)


@pytest.fixture
def learn_by_heart(tmp_path):
    """learn_by_heart(task): figures before, figures and sheets after 150 steps on the drawings."""
    import torch

    from mmfm.training.loop import LoopConfig, train

    def learn(task):
        with torch.inference_mode():
            before, _ = task.evaluate(task.module.eval())
        config = LoopConfig(num_steps=150, learning_rate=4e-3, warmup_steps=5, ema_decay=0.9,
                            evaluate_every=150, save_every=150, log_every=50)  # fmt: skip
        average = train(task, EveryDrawing(), config, tmp_path)
        with torch.inference_mode():
            after, sheets = task.evaluate(average)
        assert before["held_out"] == after["held_out"] == 12
        return before, after, sheets

    return learn


@pytest.fixture(scope="session")
def drawings():
    """Twelve drawings of 32 px with alpha: four shapes in three colours."""
    pixels, captions, meta = [], [], []
    for colour in ("red", "green", "blue"):
        for shape in ("circle", "square", "bar", "line"):
            image = Image.new("RGBA", (32, 32))
            draw = ImageDraw.Draw(image)
            if shape == "circle":
                draw.ellipse((6, 6, 26, 26), fill=colour)
            elif shape == "square":
                draw.rectangle((8, 8, 24, 24), fill=colour)
            elif shape == "bar":
                draw.rectangle((2, 13, 30, 19), fill=colour)
            else:
                draw.line((4, 4, 28, 28), fill=colour, width=5)
            pixels.append(np.asarray(image))
            captions.append((f"{colour} {shape}", f"a flat drawing of {colour} {shape}"))
            meta.append({"style": "flat", "keywords": [colour, shape]})
    return PackedPictures(np.stack(pixels), captions, meta)
