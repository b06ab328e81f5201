"""Flow-matching decoder: network, flow, sampler, and the spaces it works in."""
