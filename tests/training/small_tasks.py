"""Real tasks that train in a moment, for this process and for the children that tests start."""

import torch
from PIL import Image
from torch import nn

from mmfm.training.losses import softmax_loss


class LineTask:
    """Fit y = w x on 32 points, with noise from the step's generator.

    broken: steps (as counted by this task) whose loss is not a number.
    """

    def __init__(self, broken=()):
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.x, self.y = points()
        self.broken = set(broken)
        self.calls = 0
        self.evaluations = 0

    def loss(self, rows, generator):
        x = self.x[rows] + 0.01 * torch.randn(len(rows), 4, generator=generator)
        loss = (self.module(x) - self.y[rows]).square().mean()
        self.calls += 1
        loss = loss * (float("nan") if self.calls - 1 in self.broken else 1.0)
        return loss, {"twice": 2.0, "first_row": int(rows[0])}

    def evaluate(self, module):
        self.evaluations += 1
        assert not module.training
        error = (module(self.x) - self.y).square().mean().item()
        return {"held_out_error": error}, {"sheet": Image.new("RGB", (4, 4))}


class Block(nn.Module):
    """A residual block with dropout."""

    def __init__(self, width=8):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 3 * width)
        self.down = nn.Linear(3 * width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return x + self.down(self.drop(torch.tanh(self.up(self.norm(x)))))


class Blocks(nn.Module):
    """Two blocks between two layers, a single number, a frozen layer, and one that is not used."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 8)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.outer = nn.Linear(8, 1)
        self.scale = nn.Parameter(torch.ones(()))
        self.idle = nn.Linear(3, 5)
        self.register_buffer("shift", torch.tensor([0.5]))

    def predict(self, x):
        """Under a name of its own: tasks do not call `forward`."""
        x = self.inner(x)
        for block in self.blocks:
            x = block(x)
        return self.outer(x) * self.scale + self.shift


class BlocksTask:
    """The same points, by blocks, with dropout from torch's own generator."""

    def __init__(self):
        torch.manual_seed(0)
        self.module = Blocks()
        self.x, self.y = points()

    def loss(self, rows, generator):
        x = self.x[rows] + 0.01 * torch.randn(len(rows), 4, generator=generator)
        loss = (self.module.predict(x) - self.y[rows]).square().mean()
        return loss, {"share": loss.item()}

    def evaluate(self, module):
        return {"error": (module.predict(self.x) - self.y).square().mean().item()}, {}


class Twins(nn.Module):
    """Two small towers, side by side."""

    def __init__(self):
        super().__init__()
        self.one = Blocks()
        self.two = Blocks()
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.one.outer, self.two.outer = nn.Linear(8, 6), nn.Linear(8, 6)


class TwinsTask:
    """Contrastive: a point and its noisy copy belong together. A PairTask."""

    def __init__(self, group=None):
        torch.manual_seed(0)
        self.module = Twins()
        self.x, _ = points()
        self.group = group

    def encode(self, rows, generator):
        noisy = self.x[rows] + 0.1 * torch.randn(len(rows), 4, generator=generator)
        towers = ((self.module.one, self.x[rows]), (self.module.two, noisy))
        return [nn.functional.normalize(t.predict(x), dim=-1) for t, x in towers], None, {}

    def pair_loss(self, features):
        return softmax_loss(*features, self.module.log_scale.exp(), group=self.group)

    def loss(self, rows, generator):
        features, _, parts = self.encode(rows, generator)
        return self.pair_loss(features), parts

    def evaluate(self, module):
        return {}, {}


def points():
    """(32, 4) inputs and the (32, 1) line through them."""
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    return x, x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
