"""Programs that make weights: one recipe a file. Run from a checkout, never imported by mmfm."""
