"""Rules: how a kind of gradients is reduced, given its factors."""
