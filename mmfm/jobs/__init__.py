"""Work over shards, on one machine or on many: the only place where data meets a model."""
