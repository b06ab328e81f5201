"""LoRA adapters of the towers, the caption head and the decoder, in PEFT's own format.

    lora.add(part)            its layers get thin trainable ones; all else is frozen
    lora.save(part, folder)   what was learned, a few MB, as `peft` reads it
    lora.merge(part)          plain layers again, with the change in their weights
    lora.load(part, folder)   a saved adapter, switched on; `lora.switch` goes from one to another

While a part learns, PEFT's layers are in it. A loaded adapter is written into the weights, and the
base's own are kept aside: drawing and embedding are as fast as without, and no fast path can miss
it. Hu et al., arXiv:2106.09685.
"""

from mmfm.lora.adapter import add, discard, is_open, merge
from mmfm.lora.files import save
from mmfm.lora.sets import load_set, save_set, switch_set
from mmfm.lora.switching import active, load, switch

__all__ = [
    "active", "add", "discard", "is_open", "load", "load_set", "merge", "save", "save_set",
    "switch", "switch_set",
]  # fmt: skip
