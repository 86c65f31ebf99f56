"""Exact reductions over per-example gradients, at the price of a gradient."""

from adaopt.per_example.reductions import reduce_gradients

__all__ = ['reduce_gradients']
