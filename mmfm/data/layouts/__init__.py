"""Every way in which people keep pictures with captions, behind one face: `open_layout(path)`."""

from mmfm.data.layouts.layout import Entry, Layout
from mmfm.data.layouts.recognise import KINDS, open_layout

__all__ = ["KINDS", "Entry", "Layout", "open_layout"]
