"""The caption head as a model of transformers: GPT-2 with cross-attention has the same layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmfm.captioner.network import Captioner


def write_gpt2(captioner: Captioner, start_id: int, end_id: int) -> Any:
    """A `GPT2LMHeadModel` with the weights of `captioner`: the same logits for the same memory."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = captioner.config
    gpt2 = GPT2LMHeadModel(GPT2Config(
        vocab_size=config.vocab_size, n_positions=config.max_tokens, n_embd=config.width,
        n_layer=config.depth, n_head=config.num_heads, n_inner=4 * config.width,
        activation_function="gelu", add_cross_attention=True, tie_word_embeddings=True,
        bos_token_id=start_id, eos_token_id=end_id, pad_token_id=end_id,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )).eval()  # fmt: skip
    ours = captioner.state_dict()
    theirs = {
        "transformer.wte.weight": ours["token_embedding.weight"],
        "transformer.wpe.weight": ours["positions"],
        "transformer.ln_f.weight": ours["norm.weight"],
        "transformer.ln_f.bias": ours["norm.bias"],
        "lm_head.weight": ours["token_embedding.weight"],
    }
    names = {
        "ln_1": "norm_self", "ln_cross_attn": "norm_cross", "ln_2": "norm_mlp",
        "attn.c_attn": "self_attention.qkv", "attn.c_proj": "self_attention.out",
        "crossattention.q_attn": "cross_attention.q", "crossattention.c_attn": "cross_attention.kv",
        "crossattention.c_proj": "cross_attention.out", "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }  # fmt: skip
    for layer in range(config.depth):
        for their, our in names.items():
            weight = ours[f"blocks.{layer}.{our}.weight"]
            # why: GPT-2 keeps its matrices the other way round (Conv1D), norms are vectors
            theirs[f"transformer.h.{layer}.{their}.weight"] = (
                weight.t() if weight.ndim > 1 else weight
            )
            theirs[f"transformer.h.{layer}.{their}.bias"] = ours[f"blocks.{layer}.{our}.bias"]
    gpt2.load_state_dict({name: value.contiguous() for name, value in theirs.items()})
    return gpt2


def generate(
    gpt2: Any, memory: Tensor, mask: Tensor, prompt: Tensor, max_tokens: int, min_tokens: int = 0
) -> Tensor:
    """Greedy token ids (B, T), prompt included, by transformers' own `generate` with its cache.

    The start is never written again, as ours never does.
    """
    with torch.inference_mode():
        return gpt2.generate(
            prompt, attention_mask=torch.ones_like(prompt), encoder_hidden_states=memory,
            encoder_attention_mask=mask.long(), max_new_tokens=max_tokens,
            min_new_tokens=min_tokens, do_sample=False, use_cache=True,
            suppress_tokens=[gpt2.config.bos_token_id],
        )  # fmt: skip
