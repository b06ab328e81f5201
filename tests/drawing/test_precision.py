"""bfloat16 is taken where it keeps the pictures and is faster, and nowhere else."""

import pytest
import torch

from mmfm.drawing import precision
from mmfm.drawing.precision import Trial, network_in


@pytest.fixture
def decoder():
    from mmfm.decoder.decoder import ImageDecoder
    from mmfm.presets import preset

    torch.manual_seed(3)  # other weights than any other test's, so nothing is remembered of them
    return ImageDecoder(preset("tiny").decoder).eval()


def pictures(decoder, error):
    """A drawing function whose pictures are off by `error` with any network but the decoder's."""
    exact = torch.zeros(2, 3, 4, 4)
    return lambda network: exact if network is decoder.network else exact + error


@pytest.mark.parametrize(
    ("trial", "passed"),
    [(Trial(50.0, 2.0), True), (Trial(39.0, 2.0), False), (Trial(50.0, 1.1), False)],
)
def test_a_trial_asks_for_both(trial, passed):
    assert trial.passed is passed


def test_what_changes_pictures_falls_back_and_is_remembered(decoder, monkeypatch):
    monkeypatch.setattr("mmfm.encoders.precision.is_worth_a_trial", lambda *_: True)
    network, name = network_in("auto", decoder.network, pictures(decoder, 0.1))
    assert name == "fp32" and network is decoder.network
    # known now: the pictures are not asked again, also after the choice of this run is gone
    del precision._KEPT[decoder.network]
    assert network_in("auto", decoder.network, lambda network: 1 / 0)[1] == "fp32"


def test_what_keeps_pictures_and_is_faster_is_taken(decoder, monkeypatch):
    monkeypatch.setattr("mmfm.encoders.precision.is_worth_a_trial", lambda *_: True)
    seconds = iter([2.0, 1.0] * precision.PASSES)
    monkeypatch.setattr(precision, "_seconds", lambda draw, network, clock: next(seconds))
    with torch.no_grad():
        decoder.network.out.bias.add_(1.0)  # another network than that of the other tests
    network, name = network_in("auto", decoder.network, pictures(decoder, 1e-4))
    assert name == "bf16" and network is not decoder.network
    assert network_in("bf16", decoder.network, pictures(decoder, 1e-4))[0] is network
    with torch.no_grad():
        decoder.network.out.bias.add_(1.0)  # trained on: what was made of it is made again
    assert network_in("bf16", decoder.network, pictures(decoder, 1e-4))[0] is not network


def test_bf16_by_name_warns_once_when_it_misses_the_gate(decoder):
    with pytest.warns(UserWarning, match="26.0 dB"):
        assert network_in("bf16", decoder.network, pictures(decoder, 0.1))[1] == "bf16"
    assert network_in("bf16", decoder.network, lambda network: 1 / 0)[1] == "bf16"
