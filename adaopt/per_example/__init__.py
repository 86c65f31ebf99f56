"""Exact reductions over per-example gradients, at the price of a gradient."""

from adaopt.per_example.estimates import (
  inner_products,
  second_moment,
  squared_norms,
)
from adaopt.per_example.factors import factorise
from adaopt.per_example.forward import along
from adaopt.per_example.reductions import norms, products, squares

__all__ = [
  'along',
  'factorise',
  'inner_products',
  'norms',
  'products',
  'second_moment',
  'squared_norms',
  'squares',
]
