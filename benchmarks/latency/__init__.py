"""How fast the networks and whole photos are."""
