"""The Triton backend that the server's own interpreter runs."""
