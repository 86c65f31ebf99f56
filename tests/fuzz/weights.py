"""What programs make of parameters before they multiply with them.

Each is (param, n, m) → [n, m], where param(*shape) reads a parameter; those in
`BY_EXAMPLE` also take the example.
"""

import jax
import jax.numpy as jnp


def standardised(param, n, m):
  w = param(n, m)
  return (w - jnp.mean(w)) / jnp.sqrt(jnp.var(w) + 0.1)


def normalised(param, n, m):
  w = param(n, m)
  return w / jnp.sqrt(jnp.sum(w**2, 0, keepdims=True) + 0.1)


def low_rank(param, n, m):
  return param(n, 2) @ param(m, 2).T


def gram(param, n, m):
  w = param(n, m)
  return w @ w.T @ w


def blocks(param, n, m):
  """Block-diagonal: a smaller matrix, twice."""
  w = param((n + 1) // 2, (m + 1) // 2)
  return jnp.kron(jnp.eye(2, dtype=w.dtype), w)[:n, :m]


def solved(param, n, m):
  w = param(n, m)
  return jnp.linalg.solve(jnp.eye(n, dtype=w.dtype) + w @ w.T, w)


@jax.custom_vjp
def straight_through(w):
  return jnp.round(4 * w) / 4


straight_through.defvjp(
  lambda w: (straight_through(w), None), lambda _, g: (g,)
)


def scanned(param, n, m):
  """A product of matrices, one in every step."""
  step = lambda product, w: (jnp.tanh(product @ w), None)
  return jax.lax.scan(step, param(n, m), param(2, m, m))[0]


WEIGHTS = {
  'plain': lambda param, n, m: param(n, m),
  'transposed': lambda param, n, m: param(m, n).T,
  'squared': lambda param, n, m: param(n, m) ** 2,
  'exponential': lambda param, n, m: jnp.exp(param(n, m)),
  'masked': lambda param, n, m: (
    param(n, m) * jnp.tri(n, m, dtype=param().dtype)
  ),
  'standardised': standardised,
  'normalised': normalised,
  'low rank': low_rank,
  'gram': gram,
  'scaled': lambda param, n, m: param() * param(n, m),
  'sliced': lambda param, n, m: param(n + 2, m + 1)[1:-1, :m],
  'strided': lambda param, n, m: param(2 * n, m)[::2, ::-1],
  'joined': lambda param, n, m: jnp.concatenate([param(n, m), param(n, 2)], 1)[
    :, 2:
  ],
  'padded': lambda param, n, m: jnp.pad(param(n, m), ((1, 0), (0, 1)))[:n, 1:],
  'repeated': lambda param, n, m: jnp.tile(param(1, m), (n, 1)),
  'reshaped': lambda param, n, m: param(m * n).reshape(m, n).T,
  'one of several': lambda param, n, m: param(3, n, m)[1],
  'mean of several': lambda param, n, m: jnp.mean(param(3, n, m), 0),
  'cumulated': lambda param, n, m: jnp.cumsum(param(n, m), 0),
  'blocks': blocks,
  'solved': solved,
  'scanned': scanned,
  'half stopped': lambda param, n, m: (
    param(n, m) + jax.lax.stop_gradient(param(n, m))
  ),
  'sorted': lambda param, n, m: jnp.sort(param(n, m), 0),
  'straight-through': lambda param, n, m: straight_through(param(n, m)),
}


def chosen(param, n, m, example):
  """A mixture of experts: the example has its own matrix."""
  return param(3, n, m)[example['token'][0] % 3]


def mixed(param, n, m, example):
  shares = jax.nn.softmax(example['x'][0, 0] * param(3))
  return jnp.tensordot(shares, param(3, n, m), 1)


BY_EXAMPLE = {
  'scaled by the example': lambda param, n, m, example: (
    param(n, m) * jnp.exp(example['x'][0, 0] / 4)
  ),
  'expert': chosen,
  'mixture': mixed,
}
