"""What a running server achieves under load."""
