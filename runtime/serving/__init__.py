"""Serves a bundle through a real Triton server: what starts it, watches it and stands before it."""
