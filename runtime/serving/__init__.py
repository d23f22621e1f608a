"""A Triton server for the networks of a bundle, and what stands around it."""
