"""A tiny real caption head: width 32, depth 2, CLIP's own tokenizer."""

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from mmfm.captioner import Captioner, Vocabulary
from mmfm.config import CaptionerConfig
from mmfm.shapes import Embeddings

TEXTS = [
    "red apple",
    "green apple",
    "twelve o'clock",
    "flag: united states",
    "man: medium skin tone",
    "keycap: 10",
    "thumbs up",
    "t-shirt",
]


@pytest.fixture(scope="session")
def tokenizer():
    return SimpleTokenizer()


@pytest.fixture(scope="session")
def vocabulary(tokenizer):
    return Vocabulary.build(TEXTS, tokenizer)


@pytest.fixture
def texts():
    return list(TEXTS)


@pytest.fixture
def network(vocabulary):
    """Weights far from their small start, so that logits differ enough to compare."""
    torch.manual_seed(0)
    config = CaptionerConfig(
        vocab_size=len(vocabulary),
        token_width=24,
        pooled_width=16,
        width=32,
        depth=2,
        num_heads=2,
        max_tokens=20,
        num_pooled_tokens=3,
    )
    network = Captioner(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape))
    return network


@pytest.fixture
def embeddings():
    """Eight images; the grid has 5 tokens, of which the last is padding in the odd ones."""
    generator = torch.Generator().manual_seed(1)
    pooled = torch.nn.functional.normalize(torch.randn(8, 16, generator=generator), dim=-1)
    mask = torch.ones(8, 5, dtype=torch.bool)
    mask[1::2, -1] = False
    return Embeddings(pooled, torch.randn(8, 5, 24, generator=generator), mask)
