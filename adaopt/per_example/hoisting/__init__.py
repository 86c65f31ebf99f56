"""Hoisting: the contractions of gradients are moved out of loops."""
