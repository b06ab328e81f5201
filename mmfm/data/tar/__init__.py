"""Tars that can be read anywhere: the walk through one, its index, and where indexes live."""
