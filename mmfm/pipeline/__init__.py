"""A model's decoder as a pipeline of diffusers, made by `MMFM.to_diffusers()`.

Its parts are models of diffusers around mmfm's own modules, so that diffusers saves, loads, moves
and offloads them: `backbone` (both towers and the tokenizer), `unet` (the flow network), `space`
(from maps to pixels), `scheduler`, and the `vae` of a decoder that works in the latents of one.

A saved pipeline is loaded by `MMFMPipeline.from_pretrained(folder)`, or by diffusers alone:
`DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)`, which
runs the import in its `pipeline.py`: diffusers imports no other library on the word of a folder.

These files import diffusers at their top; they are themselves imported only when they are used.
"""

from mmfm.pipeline.pipeline import MMFMPipeline

__all__ = ["MMFMPipeline"]
