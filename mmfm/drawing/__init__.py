"""Every way from texts, pictures and stored vectors to a drawn picture: a mixin of the model."""

from mmfm.drawing.drawing import Drawing

__all__ = ["Drawing"]
