"""Losses over real processes: the whole batch's loss on each, gradients whose mean is its own."""

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from mmfm.errors import InputError
from mmfm.training import losses
from mmfm.training.losses import sigmoid_loss, softmax_loss

COUNT, WIDTH = 12, 6
IDS = {"alone": None, "groups": (0, 1, 2, 0, 3, 3, 4, 1, 5, 6, 0, 7)}
LOSSES = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}


class Towers(nn.Module):
    """Two small towers with a scale and a bias, all from one seed."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(5, WIDTH).double(), nn.Linear(4, WIDTH).double()
        self.scale = nn.Parameter(torch.tensor(7.0, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))

    def forward(self, images, texts, name, ids, group):
        pair = F.normalize(self.image(images), dim=1), F.normalize(self.text(texts), dim=1)
        numbers = [self.scale] if name == "softmax" else [self.scale, self.bias]
        return LOSSES[name](*pair, *numbers, ids, group=group)


def data():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(COUNT, 5, generator=generator, dtype=torch.float64)
    return images, torch.randn(COUNT, 4, generator=generator, dtype=torch.float64)


def case(name, ids, part=slice(None), group=None, wrap=lambda towers: towers):
    towers = Towers()
    unused = [towers.bias] if name == "softmax" else []
    for parameter in unused:
        parameter.requires_grad_(False)
    ids = None if ids is None else torch.tensor(ids)[part]
    images, texts = (x[part] for x in data())
    wrapped = wrap(towers)  # named, for DDP's hooks live as long as it does
    loss = wrapped(images, texts, name, ids, group)
    loss.backward()
    named = towers.named_parameters()
    return loss.item(), {key: p.grad.clone() for key, p in named if p.grad is not None}


def work(rank, count, folder):
    """One process: every case through DDP, and a batch of which the ranks hold unequal parts."""
    losses.TILE["cpu"] = 3  # so that tiles and ranks meet at odd places
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count
    )
    part = slice(rank * COUNT // count, (rank + 1) * COUNT // count)
    done = {
        (name, kind): case(name, ids, part, dist.group.WORLD, DistributedDataParallel)
        for name in LOSSES
        for kind, ids in IDS.items()
    }
    with torch.no_grad():
        silent = Towers()(*(x[part] for x in data()), "softmax", None, dist.group.WORLD).item()
    try:
        softmax_loss(*torch.ones(2, 2 + rank, 3), torch.ones(()), group=dist.group.WORLD)
    except InputError as error:
        done["unequal"] = str(error)
    done["silent"] = silent
    torch.save(done, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, tmp_path_factory):
    """What each of several processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (request.param, str(folder)), nprocs=request.param)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("name", LOSSES)
def test_every_rank_has_the_loss_and_gradient_of_the_whole_batch(ranks, name, kind):
    loss, wanted = case(name, IDS[kind])
    for found in ranks:
        ours, named = found[name, kind]
        assert ours == pytest.approx(loss, rel=1e-12)
        assert named.keys() == wanted.keys()
        for key, gradient in wanted.items():
            torch.testing.assert_close(named[key], gradient, rtol=1e-10, atol=1e-12)


def test_the_loss_is_the_same_without_gradients(ranks):
    loss, _ = case("softmax", None)
    assert [found["silent"] for found in ranks] == pytest.approx([loss] * len(ranks), rel=1e-12)


def test_unequal_parts_are_refused_on_every_rank(ranks):
    for found in ranks:
        assert "[2, 3" in found["unequal"] and "equally many" in found["unequal"]
