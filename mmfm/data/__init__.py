"""Reading and writing the pictures and captions a model learns from."""

from mmfm.data.bad import BadSamples, SampleError
from mmfm.data.batch import Batch
from mmfm.data.cache import PackedCache
from mmfm.data.dataset import ShardDataset
from mmfm.data.loader import Loader
from mmfm.data.order import Order, ShuffledShards
from mmfm.data.sample import Sample
from mmfm.data.shards import read_shard, read_shards, stream_shards, write_shards
from mmfm.data.store import EmbeddingStore
from mmfm.preprocess.folder import list_images

__all__ = [
    "BadSamples",
    "Batch",
    "EmbeddingStore",
    "Loader",
    "Order",
    "PackedCache",
    "Sample",
    "SampleError",
    "ShardDataset",
    "ShuffledShards",
    "list_images",
    "read_shard",
    "read_shards",
    "stream_shards",
    "write_shards",
]
