"""Other people's ways to protect a face, rebuilt under one contract; see docs/peers.md."""
