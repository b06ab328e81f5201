"""Vectors and tokens of open_clip's architectures: ours against its own; exit 1 if they differ.

Each architecture gets random weights, which open_clip saves and `mmfm.load` reads from disk; then
both embed the same pixels and the same token ids. One JSON line each, with the largest differences:
image, text (unit vectors), image_tokens, text_tokens (patches and words after the tower's last
norm), preprocess (of one picture, in each of three shapes). What needs files that are not on this
machine says which. `python -m benchmarks.parity ARCH...` checks others.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import benchmarks  # noqa: F401  one thread, no network; before torch is loaded

GATE = 1e-5
ARCHITECTURES = (
    "ViT-B-32",  # class token
    "ViT-B-32-quickgelu",
    "vit_medium_patch16_gap_256",  # timm ViT, average pooling
    "vit_relpos_medium_patch16_cls_224",
    "RN50",  # attention pooling over a map
    "convnext_base",
    "swin_base_patch4_window7_224",
    "coca_ViT-B-32",  # attention pooling; class token behind the text
    "ViT-B-16-SigLIP",  # CustomText, MAP pooling, bidirectional text pooled at its last token
    "ViT-B-16-SigLIP2",
    "MobileCLIP-S1",  # FastViT, bidirectional text
    "MobileCLIP2-S0",
    "MobileCLIP-B",
    "EVA02-B-16",
    "ViTamin-S",
    "PE-Core-T-16-384",
    "roberta-ViT-B-32",  # text tower of Hugging Face
)
SHAPES = ((90, 60), (300, 301), (700, 400))


def main() -> None:
    """Check the architectures that are named, or those above."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architectures", nargs="*", metavar="ARCH", default=ARCHITECTURES)
    parser.add_argument("--count", type=int, default=3, help="pictures and texts of each")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    wrong = []
    for name in given.architectures:
        line = checked(name, given.count)
        print(json.dumps(line), flush=True)
        if line["equal"] is False:
            wrong.append(name)
        gc.collect()
    if wrong:
        sys.exit(f"parity: {', '.join(wrong)} differ from open_clip by more than {GATE}")


def checked(name: str, count: int) -> dict[str, Any]:
    """The line of one architecture; `equal` is None where it cannot be built on this machine."""
    from mmfm.encoders.architectures import published
    from mmfm.encoders.published import from_open_clip
    from mmfm.errors import ModelError

    tag = next((tag for arch, tag in published() if arch == name), None)
    line = {"benchmark": "parity", "case": name}
    peer_version = {"peer_version": f"open_clip_torch {version('open_clip_torch')}"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        try:
            wanted = theirs(name, tag, count, path)
        except OSError:  # files of the hub that are not here; ours must say which
            try:
                from_open_clip(f"{name}/random")
            except ModelError as refusal:
                return {**line, "needs": str(refusal), "equal": None, **peer_version}
            raise
        found = ours(name, tag, wanted, path)
    differences = {
        part: max(
            (one - two).abs().max().item()
            for one, two in zip(found[part], wanted[part], strict=True)
        )
        for part in ("image", "text", "image_tokens", "text_tokens", "preprocess")
    }
    told = {part: float(f"{value:.1e}") for part, value in differences.items()}
    equal = all(value <= GATE for value in differences.values())
    return {**line, **told, "gate": GATE, "equal": equal, **peer_version}


def theirs(name: str, tag: str | None, count: int, path: Path) -> dict[str, Any]:
    """What open_clip alone says, with inputs and a file of its weights for the other side."""
    import open_clip
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from safetensors.torch import save_file

    torch.manual_seed(0)
    cfg = dict(open_clip.get_pretrained_cfg(name, tag) or {}) if tag else {}
    model = open_clip.create_model(name, load_weights=False, force_preprocess_cfg=cfg).eval()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    side = model.visual.image_size
    pixels = torch.randn(count, 3, *([side] * 2 if isinstance(side, int) else side))
    ids = some_ids(open_clip.get_model_config(name)["text_cfg"], count)
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    attended = getattr(model.visual, "attn_pool", None) is not None  # has no norm for patches
    with torch.inference_mode():
        seen = model.forward_intermediates(
            image=pixels, image_indices=1, normalize_intermediates=not attended
        )
        said = model.forward_intermediates(text=ids, text_indices=1, normalize_intermediates=True)
        return {
            "pixels": pixels,
            "ids": ids,
            "image": model.encode_image(pixels, normalize=True),
            "text": model.encode_text(ids, normalize=True),
            "image_tokens": seen["image_intermediates"][-1].flatten(2).transpose(1, 2),
            "text_tokens": said["text_intermediates"][-1],
            "preprocess": [transform(picture) for picture in pictures()],
        }


def ours(name: str, tag: str | None, wanted: dict[str, Any], path: Path) -> dict[str, Any]:
    """What our backbone says of the same inputs, with the weights of the file."""
    import torch

    from mmfm.encoders.published import from_open_clip
    from mmfm.preprocess.transform import Preprocess

    backbone = from_open_clip(f"{name}/{tag}" if tag else name, checkpoint=path).eval()
    preprocess = Preprocess.from_open_clip(backbone.config.preprocess_cfg)
    with torch.inference_mode():
        seen, said = backbone.encode_images(wanted["pixels"]), backbone.encode_texts(wanted["ids"])
    # what lies behind the longest text is not computed where nothing depends on it
    wanted["text_tokens"] = wanted["text_tokens"][:, : said.tokens.shape[1]]
    return {
        "image": seen.pooled,
        "text": said.pooled,
        "image_tokens": seen.tokens,
        "text_tokens": said.tokens,
        "preprocess": [torch.from_numpy(preprocess(picture)) for picture in pictures()],
    }


def some_ids(text_cfg: dict[str, Any], count: int) -> Any:
    """(count, T) ids of texts of several lengths; half of every row at least is padding."""
    import torch

    length, largest = text_cfg.get("context_length", 77), text_cfg.get("vocab_size", 49408) - 1
    ids = torch.full((count, length), 1 if "hf_model_name" in text_cfg else 0)
    for row, words in zip(ids, torch.linspace(1, length // 2, count).long().tolist(), strict=True):
        row[:words] = torch.randint(3, largest, (words,))
        row[words] = text_cfg.get("eos_id", largest)
    return ids


def pictures() -> list[Any]:
    """Noise, in which any other filter, crop or order shows."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    shapes = ((height, width, 3) for width, height in SHAPES)
    return [Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


if __name__ == "__main__":
    main()
