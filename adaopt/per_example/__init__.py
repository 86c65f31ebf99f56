"""Exact reductions over per-example gradients, at the price of a gradient."""

from adaopt.per_example.factors import factorise
from adaopt.per_example.reductions import norms, products, squares

__all__ = ['factorise', 'norms', 'products', 'squares']
