"""Reading and writing the pictures and captions a model learns from."""

from mmfm.data.sample import Sample
from mmfm.data.shards import read_shards, write_shards
from mmfm.preprocess.folder import list_images

__all__ = ["Sample", "list_images", "read_shards", "write_shards"]
