"""Training of ErasableMask's networks in PyTorch (three stages, Eqs. 3-16)."""
