"""Serving: a real Triton server with the networks of a bundle, and what stands before and beside it."""
