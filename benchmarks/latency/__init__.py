"""How fast the networks are."""
