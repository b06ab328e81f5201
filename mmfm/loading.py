"""From a name to a model: what ships, a bundle on disk, or any open_clip model."""

from __future__ import annotations

from pathlib import Path

from mmfm import bundle
from mmfm.config import ModelConfig
from mmfm.encoders.backbone import from_open_clip
from mmfm.errors import ModelError
from mmfm.model import MMFM

WEIGHTS = Path(__file__).parent / "weights"
_HUB_PREFIXES = ("hf-hub:", "local-dir:")


def list_models() -> list[str]:
    """Names of the models that ship with the package; `load` takes more (see there)."""
    return sorted(path.parent.name for path in WEIGHTS.glob("*/config.json"))


def load(name: str | Path = "mini", *, device: str | None = None) -> MMFM:
    """A model by name: one that ships ("mini"), a bundle folder, or any open_clip model.

    `open_clip:ARCH/TAG`, `hf-hub:ORG/NAME` and `local-dir:PATH` give a backbone without heads: it
    embeds and classifies. device: "cpu", "cuda", "mps"...; default the best one present.
    Raises ModelError on an unknown name, a damaged bundle or an absent device.
    """
    text = str(name)
    if text.startswith("open_clip:") or text.startswith(_HUB_PREFIXES):
        backbone = from_open_clip(text.removeprefix("open_clip:"))
        config = ModelConfig(name=text, backbone=backbone.config)
        return MMFM(config, backbone, device=device)
    for folder in (Path(name), WEIGHTS / text):
        if bundle.is_bundle(folder):
            return MMFM.from_pretrained(folder, device=device)
    raise ModelError(
        f"there is no model {text!r}; wanted one of {', '.join(list_models()) or 'none shipped'}, "
        "a bundle folder, open_clip:ARCH/TAG, hf-hub:ORG/NAME or local-dir:PATH"
    )
