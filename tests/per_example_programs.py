"""Tiny programs whose tails are written out, and how to cut them."""

import jax
import jax.numpy as jnp
import numpy as np

from adaopt.per_example import cut
from adaopt.per_example.hoisting import loops
from adaopt.per_example.program import inlining, ir

ROW, ROWS, KEYS = np.ones(4), np.ones((5, 4)), np.array([1, 2, 0])
W, TABLE = np.ones((4, 3)), np.ones((7, 3))


def total(outputs):
  """A loss whose cotangent differs between outputs."""
  return jnp.sum(jnp.sin(outputs))


def convolved(w, x):
  return jax.lax.conv(x[None], w, (1, 1), 'VALID')


def normalised(w, x):
  return x @ (w / jnp.sqrt(jnp.sum(w**2)))


def tied(table, keys):
  return jnp.sin(table[keys]) @ table.T


def over_time(w, x):
  step = lambda h, row: (jnp.sin(h + row @ w), None)
  return jax.lax.scan(step, jnp.zeros(3), x)[0]


def over_layers(w, x):
  step = lambda h, layer: (jnp.sin(h @ layer), None)
  return jax.lax.scan(step, x, w)[0]


def split_cell(params, x):
  """Two gates from one product, so that their gradients are split from one."""

  def step(h, row):
    left, right = jnp.split(row @ jnp.concatenate(params, 1), 2)
    return jnp.sin(h + left * right), None

  return jax.lax.scan(step, jnp.zeros(3), x)[0]


PROGRAMS = {
  'dense': (lambda w, x: x @ w, W, ROW),
  'dense on a sequence': (lambda w, x: x @ w, W, ROWS),
  'bias': (lambda b, x: x + b[None], np.ones(4), ROWS),
  'embedding': (lambda table, keys: table[keys], TABLE, KEYS),
  'convolution': (convolved, np.ones((2, 3, 2, 2)), np.ones((3, 5, 5))),
  'used twice': (lambda w, x: jnp.sin(x @ w) @ w, np.ones((4, 4)), ROW),
  'tied embedding': (tied, TABLE, KEYS),
  'masked': (lambda w, x: x @ (w * np.tri(4, 3)), W, ROW),
  'normalised': (normalised, W, ROW),
  'scan over time': (over_time, W, ROWS),
  'scan over layers': (over_layers, np.ones((6, 4, 4)), ROW),
  'split cell': (split_cell, (W, W), ROWS),
  'sorted': (lambda w, x: x @ jnp.sort(w, 0), W, ROW),
  'cumulated': (lambda w, x: x @ jnp.cumsum(w, 0), W, ROW),
}


def flat_of(name):
  """The flat program of the gradient, and the number of parameters."""
  apply, params, x = PROGRAMS[name]
  leaves, treedef = jax.tree.flatten(params)
  gradient = jax.grad(lambda p, x: total(apply(treedef.unflatten(p), x)))
  flat = inlining.flatten(jax.make_jaxpr(gradient)(leaves, x))
  return flat, len(leaves)


def hoisted(name):
  flat, count = flat_of(name)
  return loops.hoist(flat, range(count)), count


def tails_of(flat, count):
  """Names of equations, shapes of factors and shared values, unknown."""
  per_sample = ir.dependents(flat.equations, flat.inputs[count:])
  space = cut.weight_space(flat, [], per_sample)
  tails = [cut.find_tail(flat, v, per_sample, space) for v in flat.outputs]
  return [
    (
      ' '.join(e.name for e in tail.equations),
      [tail.shape(v) for v in tail.factors],
      [tail.shape(v) for v in tail.shared],
      tail.unknown,
    )
    for tail in tails
  ]
