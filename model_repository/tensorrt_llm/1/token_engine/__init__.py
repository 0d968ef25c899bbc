"""The engine's seam: token ids and sampling parameters in, deltas of token ids out."""
