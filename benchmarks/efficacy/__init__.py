"""Attack and erasure, measured on saved files with face recognisers."""
