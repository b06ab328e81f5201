"""Distribution matching on twelve drawings: who learns what, and a shifted student comes back."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmfm.training.loop import LoopConfig, train
from mmfm.training.matching import MatchingTask, towards_teacher
from tests.training.tiny_flow import tiny_flow

ROWS = np.arange(12)


@pytest.fixture
def task(drawings):
    _, decoder, data = tiny_flow(
        drawings, "pixel", spread=0.03, few_steps=2, few_steps_rank=4, few_steps_guidance=1.5
    )
    return MatchingTask(decoder, data, data, critic_rank=4)


def test_what_the_critic_expects_as_the_teacher_does_stays():
    drawn, wanted = torch.randn(2, 3, 8, 4, 4)
    assert torch.equal(towards_teacher(drawn, wanted, wanted), drawn)


def test_a_picture_moves_as_the_teacher_differs_and_noise_levels_count_alike():
    drawn, wanted, expected = torch.randn(3, 2, 8, 4, 4)
    moved = towards_teacher(drawn, wanted, expected) - drawn
    cosine = F.cosine_similarity(moved.flatten(), (wanted - expected).flatten(), 0)
    assert cosine > 0.9
    # ten times farther from the teacher, and the critic with it: the same step
    far = drawn + 10 * (wanted - drawn), drawn + 10 * (expected - drawn)
    assert torch.allclose(towards_teacher(drawn, *far) - drawn, moved, atol=1e-4)


def test_each_loss_teaches_its_own_and_the_flow_stays(task):
    before = {name: p.clone() for name, p in task.decoder.network.named_parameters()}
    loss, parts = task.loss(ROWS, torch.Generator().manual_seed(0))
    loss.backward()
    for part in ("few_steps", "critic"):
        learned = [p.grad for p in task.module[part].parameters()]
        assert any(grad is not None and grad.abs().max() > 0 for grad in learned), part
    assert all(p.grad is None for p in task.decoder.network.parameters())
    assert all(torch.equal(p, before[name]) for name, p in task.decoder.network.named_parameters())
    assert set(parts) == {"matching", "critic"}


def test_a_fresh_critic_is_the_flow_itself(task):
    given = torch.randn(12, 48, 8, 8)[:, : task.decoder.config.channels]
    size = task.decoder.config.map_size
    x, t = given[..., :size, :size], torch.rand(12)
    told = task.train.draw(ROWS, task.shares, torch.Generator().manual_seed(0))
    condition = task.decoder.network.conditioner(told.embeddings)
    with torch.no_grad():
        bound = task.critic.bind(task.decoder.network)(x, t, condition)
        assert torch.equal(bound, task.decoder.network(x, t, condition))


class Every:
    def batch(self, step):
        return ROWS[:4]


def test_a_student_that_draws_too_bright_comes_back(task, tmp_path):
    with torch.no_grad():
        task.decoder.few_steps.vectors["out/bias"].add_(1.0)

    def brightness():
        told = task.train.draw(ROWS, task.shares, torch.Generator().manual_seed(0))
        with torch.no_grad():
            condition = task.decoder.network.conditioner(told.embeddings, told.text_open)
            config = task.decoder.config
            shape = (12, config.channels, config.map_size, config.map_size)
            x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
            drawn = task.walk(task.student(), condition, x)[-1]
            teacher, wanted = task.teacher(condition), x
            for start, end in zip(task.times, task.times[1:]):
                wanted = task.follow(teacher, wanted, start.expand(12), end.expand(12))
        return (drawn.mean() - wanted.mean()).abs().item()

    before = brightness()
    config = LoopConfig(
        num_steps=60, learning_rate=3e-2, schedule="constant", warmup_steps=3, weight_decay=0,
        ema_decay=0.0, evaluate_every=100, parts=(("^critic", 3.0),),
    )  # fmt: skip
    train(task, Every(), config, tmp_path)
    assert before > 0.5
    assert brightness() < before / 2
