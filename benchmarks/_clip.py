"""A CLIP of random weights for all sides: open_clip's folder, the same for transformers, peers.

Weights come from a seed, so nothing is downloaded; speed does not depend on their values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import Rounds, report

BATCH_SIZE = 64
SMALL = {  # an architecture for tests of the benchmarks themselves
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 128, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 2},
}
_BLOCK = {  # transformers' name -> open_clip's, of one block
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
}  # fmt: skip
_REST = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}


def write_open_clip(architecture: str, folder: Path) -> Path:
    """A folder that open_clip and we read as `local-dir:`, with weights from seed 0."""
    import json

    import open_clip
    import torch
    from safetensors.torch import save_file

    model_cfg = SMALL if architecture == "small" else open_clip.get_model_config(architecture)
    torch.manual_seed(0)
    model = open_clip.CLIP(**model_cfg)
    preprocess_cfg = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    preprocess_cfg |= {"size": [model_cfg["vision_cfg"]["image_size"]] * 2}
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def write_transformers(source: Path, folder: Path) -> Path:
    """The same model as transformers' CLIPModel, with tokenizer and image processor."""
    import json

    import open_clip
    from safetensors.torch import load_file
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    told = json.loads((source / "open_clip_config.json").read_text())
    cfg, pixels = told["model_cfg"], told["preprocess_cfg"]
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]

    def sizes(part: dict[str, Any], heads: int) -> dict[str, Any]:
        return {
            "hidden_size": part["width"], "intermediate_size": 4 * part["width"],
            "num_hidden_layers": part["layers"], "num_attention_heads": heads,
            "hidden_act": "gelu", "projection_dim": cfg["embed_dim"],
        }  # fmt: skip

    end = text["vocab_size"] - 1
    config = CLIPConfig(
        projection_dim=cfg["embed_dim"],
        text_config={
            **sizes(text, text["heads"]), "vocab_size": text["vocab_size"], "bos_token_id": end - 1,
            "eos_token_id": end, "pad_token_id": end,
            "max_position_embeddings": text["context_length"],
        },
        vision_config={
            **sizes(vision, vision["width"] // vision.get("head_width", 64)),
            "image_size": vision["image_size"], "patch_size": vision["patch_size"],
        },
    )  # fmt: skip
    model = CLIPModel(config)
    state = as_transformers(load_file(source / "open_clip_model.safetensors"))
    model.load_state_dict(state, strict=True)
    model.save_pretrained(folder)
    ours = open_clip.get_tokenizer(f"local-dir:{source}")
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(name, name): number for name, number in ours.encoder.items()}
    tokenizer = CLIPTokenizer(
        vocab=vocabulary, merges=list(ours.bpe_ranks), model_max_length=text["context_length"]
    )
    side = vision["image_size"]
    processor = CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side},
        image_mean=pixels["mean"], image_std=pixels["std"],
    )  # fmt: skip
    CLIPProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def as_transformers(state: dict[str, Any]) -> dict[str, Any]:
    """open_clip's CLIP weights under transformers' names; the fused q, k, v come apart."""
    made = {theirs: state[ours] for theirs, ours in _REST.items()}
    made["visual_projection.weight"] = state["visual.proj"].T.contiguous()
    made["text_projection.weight"] = state["text_projection"].T.contiguous()
    for theirs, ours in (("vision_model", "visual.transformer"), ("text_model", "transformer")):
        mine = [name for name in state if name.startswith(f"{ours}.resblocks.")]
        for number in sorted({int(name.removeprefix(ours).split(".")[2]) for name in mine}):
            there, here = f"{theirs}.encoder.layers.{number}", f"{ours}.resblocks.{number}"
            for kind in ("weight", "bias"):
                for new, old in _BLOCK.items():
                    made[f"{there}.{new}.{kind}"] = state[f"{here}.{old}.{kind}"]
                fused = state[f"{here}.attn.in_proj_{kind}"].chunk(3)
                for name, part in zip("qkv", fused, strict=True):
                    made[f"{there}.self_attn.{name}_proj.{kind}"] = part.contiguous()
    return made


class OpenClip:
    """What open_clip's README does with a model, in batches."""

    package = "open_clip_torch"

    def __init__(self, folder: Path) -> None:
        import open_clip

        name = f"local-dir:{folder}"
        model, _, self.transform = open_clip.create_model_and_transforms(name)
        self.model, self.tokenizer = model.eval(), open_clip.get_tokenizer(name)

    def texts(self, texts: list[str], batch_size: int = BATCH_SIZE) -> np.ndarray:
        return self._batches(
            texts, batch_size, lambda some: self.model.encode_text(self.tokenizer(some), True)
        )

    def images(self, files: list[Path], batch_size: int = BATCH_SIZE) -> np.ndarray:
        import torch

        def embed(some: list[Path]) -> Any:
            images = torch.stack([self.transform(Image.open(file)) for file in some])
            return self.model.encode_image(images, normalize=True)

        return self._batches(files, batch_size, embed)

    def _batches(self, inputs: list[Any], size: int, embed: Callable[[Any], Any]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            starts = range(0, len(inputs), size)
            return torch.cat([embed(inputs[start : start + size]) for start in starts]).numpy()


class SentenceTransformers:
    """What sentence-transformers' documentation does: `encode` of texts, or of open pictures."""

    package = "sentence-transformers"

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(str(folder), device="cpu")

    def texts(self, texts: list[str], batch_size: int = BATCH_SIZE) -> np.ndarray:
        return self._encode(texts, batch_size)

    def images(self, files: list[Path], batch_size: int = BATCH_SIZE) -> np.ndarray:
        return self._encode([Image.open(file) for file in files], batch_size)

    def _encode(self, inputs: list[Any], batch_size: int) -> np.ndarray:
        return self.model.encode(
            inputs, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
        )


@dataclass(frozen=True)
class Turns:
    """CPU seconds of each round of each side, and the vectors of its first, unmeasured one."""

    seconds: dict[str, list[float]]
    outputs: dict[str, np.ndarray]

    def report(
        self, benchmark: str, case: str, ours: str, peer: str, amount: int, unit: str, *,
        difference: float, cosine: float | None, peer_version: str,
    ) -> None:  # fmt: skip
        """Print the line of two sides; equal: by cosine where one is given, else by difference."""
        a, b = self.outputs[ours], self.outputs[peer]
        least, most = float((a * b).sum(axis=1).min()), float(np.abs(a - b).max())
        report(
            benchmark, case, Rounds(self.seconds[ours], self.seconds[peer], a, b), amount=amount,
            unit=unit, gate={"cosine": round(least, 6), "difference": float(f"{most:.1e}")},
            equal=most <= difference if cosine is None else least >= cosine,
            peer_version=peer_version,
        )  # fmt: skip


def take_turns(sides: dict[str, Callable[[], np.ndarray]], rounds: int) -> Turns:
    """As `interleave`, for any number of sides; another one is first in each round."""
    outputs = {name: compute() for name, compute in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for _ in range(rounds):
        for name in order:
            start = process_time()
            sides[name]()
            seconds[name].append(process_time() - start)
        order.append(order.pop(0))
    return Turns(seconds, outputs)
