"""Int8 maps are exact in integers, near float32 in floats, and no row knows of its batch mates."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mmfm.encoders import int8

pytestmark = pytest.mark.skipif(int8.why_not() is not None, reason=str(int8.why_not()))
KERNELS = [kernel for kernel in (int8._onednn, int8._fbgemm) if int8._has(kernel)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weight_of(rows, columns, seed=0):
    """Weights with heavy tails, as trained ones have, a row of zeros and one of equal numbers."""
    weight = random(rows, columns, seed=seed)
    weight = weight * weight.abs()
    weight[0], weight[1] = 0, 0.3
    return weight


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("columns", [64, 65, 300])
def test_products_are_the_right_integers_whatever_the_weights(kernel, columns):
    _, quantised = int8._quantise(weight_of(70, columns))
    product = kernel(quantised, torch.ones(70), torch.zeros(70))
    levels = torch.randint(0, 256, (9, columns), generator=torch.Generator().manual_seed(1))
    levels[0], levels[1] = 255, 0
    wanted = levels @ quantised.long().T
    assert torch.equal(product(levels.float()).long(), wanted)


def test_no_two_neighbours_can_overflow_sixteen_bits():
    _, quantised = int8._quantise(weight_of(70, 301))
    pairs = F.pad(quantised, (0, 1)).int().unflatten(1, (-1, 2))
    if int8.saturates():
        assert (255 * pairs.clamp(min=0).sum(dim=2)).max() <= 2**15 - 1
        assert (255 * pairs.clamp(max=0).sum(dim=2)).min() >= -(2**15)
    assert quantised.abs().max() <= 127


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 120), width=st.sampled_from([64, 96]), spread=st.floats(0, 3),
    floor=st.sampled_from([None, -0.2]), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_map_is_near_its_float_and_a_row_does_not_know_the_others(
    count, width, spread, floor, seed
):
    weight, bias = weight_of(72, width, seed), random(72, seed=seed)
    rows = random(count, width, seed=seed) * 10 ** (spread * random(count, 1, seed=seed))
    rows = rows if floor is None else rows.clamp(min=floor)
    quick = int8.linear(weight, bias, floor)
    together, wanted = quick(rows), F.linear(rows, weight, bias)
    # half a level of every input and of every weight, at worst
    step = rows.abs().amax(dim=1, keepdim=True) + 0.2
    scale = weight.abs().amax(dim=1) * 2
    bound = step / 127 * weight.abs().sum(dim=1) + scale / 127 * rows.abs().sum(1, keepdim=True)
    assert ((together - wanted).abs() <= bound + 1e-4).all()
    alone = torch.cat([quick(row[None]) for row in rows[:5]])
    assert torch.allclose(alone, together[:5], rtol=1e-5, atol=1e-5 * float(step.max()))


def test_rows_of_zeros_give_the_bias():
    weight, bias = weight_of(80, 64), random(80)
    assert torch.allclose(int8.linear(weight, bias)(torch.zeros(3, 64)), bias.expand(3, -1))
    assert torch.allclose(int8.linear(weight, None)(torch.zeros(60, 64)), torch.zeros(60, 80))


def test_both_operators_give_the_same_numbers():
    few, weight = int8.FEW_ROWS, weight_of(80, 64)
    rows, quick = random(few + 1, 64), int8.linear(weight, None)
    assert torch.allclose(quick(rows)[:few], quick(rows[:few]), rtol=1e-5, atol=1e-5)


def test_small_maps_stay_in_float32():
    weight = random(8, 64)
    rows = random(3, 64)
    assert torch.equal(int8.linear(weight, None)(rows), F.linear(rows, weight))


def test_linears_are_swapped_and_what_reads_weights_from_outside_is_not():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
            self.up = nn.Linear(64, 128)
            self.down = nn.Sequential(nn.ReLU(), nn.Linear(128, 64))

        def forward(self, x):
            x = x + self.attention(x, x, x, need_weights=False)[0]
            assert F.linear(x, self.up.weight, self.up.bias).shape[-1] == 128
            return x + self.down(self.up(x))

    torch.manual_seed(0)
    module, x = Reader().eval(), random(2, 5, 64)
    with torch.inference_mode():
        wanted = module(x)
        int8.swap_linears(module)
        swapped = [name for name, child in module.named_modules() if "Int8" in type(child).__name__]
        assert swapped == ["up", "down.1"]
        cosine = F.cosine_similarity(module(x).flatten(1), wanted.flatten(1))
        assert cosine.min() > 0.999 and not torch.equal(module(x), wanted)


def test_a_machine_without_the_operator_says_so(monkeypatch):
    monkeypatch.setattr(int8, "why_not", lambda: "no operator")
    with pytest.raises(RuntimeError, match="no operator"):
        int8.linear(random(64, 64), None)


def test_a_wrong_operator_is_noticed():
    def wrong(quantised, scale, shift):
        return lambda levels: levels @ quantised.float().T + 1

    def missing(quantised, scale, shift):
        return torch.ops.onednn.no_such_operator(quantised)

    def saturating(quantised, scale, shift):
        return lambda levels: (levels @ quantised.float().T).clamp(max=2**15)

    for kernel in (wrong, missing, saturating):
        assert not int8._is_exact(kernel, 64)
