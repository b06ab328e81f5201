"""Children that train, each a real process, forked from one that has imported torch already.

`python tests/training/nursery.py` reads commands as JSON lines. `{"start": SCENARIO, "errors":
FILE, ...}` forks and answers with the child's process id; `{"wait": ID}` answers with its exit
code, or minus the signal that ended it; `{"lives": ID}` whether it has not ended yet.
"""

import json
import os
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # what a first step would import, imported once for all children
import torch.utils.tensorboard
from PIL import Image

from mmfm.data.order import Order
from mmfm.errors import InputError
from mmfm.training.distributed import join
from mmfm.training.loop import LoopConfig, train
from tests.training.small_tasks import BlocksTask, LineTask, TwinsTask


def rows(batch_size=8, **share):
    return Order(np.full(32, 1.3), batch_size, seed=0, **share)


def line(folder, config, hold="", file_limit=0):
    """Fit a line. hold: where to wait for a signal, or for a file `go`; file_limit: in bytes."""
    folder = Path(folder)

    def wait(forever=False):
        (folder / "ready").touch()
        while forever or not (folder / "go").exists():
            time.sleep(0.005)

    class Waiting(LineTask):
        def loss(self, rows, generator):
            if {"first step": 0, "step": 5}.get(hold) == self.calls:
                wait()
            return super().loss(rows, generator)

        def evaluate(self, module):
            done = super().evaluate(module)
            if hold == "evaluation":
                while True:
                    try:
                        wait(forever=True)
                    except Exception:  # what a careless evaluation might do
                        continue
            return done

    class Data:
        def __init__(self):
            self.order = rows()

        def fingerprint(self):
            if hold == "warm-up":
                wait()
            return "line"

        def batch(self, step):
            if file_limit and step == 7:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
            return self.order.batch(step)

    folder.mkdir(parents=True, exist_ok=True)
    task = Waiting()
    saves = []

    def saving(*_):
        saves.append(1)
        if hold == "save" and len(saves) == 3:  # each save asks twice: weights, average
            wait()

    task.module.register_state_dict_post_hook(saving)
    train(task, Data(), LoopConfig(**config), folder)


def together(folder, config, task, hold_at=None):
    """Train among several processes, or alone; before step `hold_at` wait for a file `go`."""
    world, folder = join(), Path(folder)
    made = TwinsTask(world.group) if task == "twins" else BlocksTask()
    order = rows(16, rank=world.rank, world_size=world.size)

    class Held:
        def batch(self, step):
            if step == hold_at:
                (folder / f"ready-{world.rank}").touch()
                while not (folder / "go").exists():
                    time.sleep(0.005)
            return order.batch(step)

    best = train(made, Held(), LoopConfig(**config), folder)
    if world.first:
        plain = {name: value.clone() for name, value in best.state_dict().items()}
        torch.save(plain, folder / "returned.pt")


SCENARIOS = {"line": line, "together": together}


def live(command):
    """Be a child: never returns."""
    code = 1
    try:
        sys.stderr = Path(command.pop("errors")).open("w", buffering=1)  # noqa: SIM115
        warnings.showwarning = lambda message, *_, **__: print(
            f"warning: {message}", file=sys.stderr
        )
        os.environ.update(command.pop("env"))
        SCENARIOS[command.pop("start")](**command)
        code = 0
    except SystemExit as ended:
        code = ended.code
    except KeyboardInterrupt:
        code = 130
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main():
    torch.set_num_threads(1)
    Image.init()
    ended = {}
    for text in sys.stdin:
        command = json.loads(text)
        number = command.get("wait", command.get("lives"))
        if number is not None and number not in ended:
            found, status = os.waitpid(number, os.WNOHANG if "lives" in command else 0)
            if found:
                ended[number] = os.waitstatus_to_exitcode(status)
        if "wait" in command:
            answer = ended[number]
        elif "lives" in command:
            answer = number not in ended
        else:
            answer = os.fork()
            if answer == 0:
                live(command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
