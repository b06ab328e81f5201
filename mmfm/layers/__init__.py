"""Building blocks shared by the heads: attention, blocks, positions, patches."""
