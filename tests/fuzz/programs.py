"""Random programs as data: what is drawn, printed, and run again.

>>> from tests.fuzz.programs import Layer, Program, program_text
>>> layers = (Layer('dense', dict(slot='a', of='plain', width=3)),)
>>> print(program_text(Program(layers, length=5)))
Program(
  (
    Layer('dense', {'slot': 'a', 'of': 'plain', 'width': 3}),
  ),
  length=5,
)
"""

import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import adaopt
from tests.fuzz.blocks import BLOCKS
from tests.fuzz.layers import LAYERS

MOST = 9, 12
"""The most positions and features that a layer hands on."""


class Layer(NamedTuple):
  """A layer, or a block of other layers."""

  kind: str  # a name in LAYERS or in BLOCKS
  options: dict[str, Any] = {}  # noqa: RUF012
  body: tuple['Layer', ...] = ()
  other: tuple['Layer', ...] = ()


class Program(NamedTuple):
  """A loss, its parameters and its examples."""

  layers: tuple[Layer, ...]
  length: int = 2  # of an example's sequence
  width: int = 3  # of its features
  head: str = 'huber'
  mean: str = 'examples'  # or 'tokens', 'classes': of what the loss is a mean
  batched: str = 'vmap'  # how the loss of a batch runs that of an example
  params: str = 'float64'
  compute: str = 'float64'
  narrow: str = 'float64'
  samples: int = 4
  group_size: int = 1
  seed: int = 0


def text(layer: Layer) -> str:
  """The layer as it is written: without what is left out at the end."""
  parts = [layer.kind, layer.options]
  inner = [f'({"".join(f"{text(x)}, " for x in xs)})' for xs in layer[2:]]
  while inner and inner[-1] == '()':
    inner.pop()
  return f'Layer({", ".join([*map(repr, parts), *inner])})'


def program_text(program: Program) -> str:
  """The program as it is written, for `eval`."""
  layers = ''.join(f'\n    {text(layer)},' for layer in program.layers)
  rest = ''.join(
    f'\n  {name}={value!r},'
    for name, value in program._asdict().items()
    if name != 'layers' and value != Program._field_defaults[name]
  )
  return f'Program(\n  ({layers}\n  ),{rest}\n)'


class Scope(NamedTuple):
  """What layers read beside h."""

  param: Callable[[str, tuple[int, ...]], jax.Array]  # slot, shape → parameter
  example: dict[str, jax.Array]
  narrow: Any  # a dtype


class Losses(NamedTuple):
  """A program that runs."""

  params: dict[str, jax.Array]
  batch: dict[str, jax.Array]  # of samples · group_size examples
  of_one: Callable[..., Any]  # (params, example) → (total, weight)
  of_batch: Callable[..., Any]  # (params, batch) → the loss, as adaopt takes it


def words(program: Program) -> list[str]:
  """All kinds, and all options that are words or flags."""
  found = [f'{name}: {getattr(program, name)}' for name in program._fields[3:9]]

  def visit(layer):
    found.append(layer.kind)
    found.extend(
      f'{layer.kind} {name}: {value}'
      for name, value in layer.options.items()
      if isinstance(value, str | bool) and name not in ('slot', 'shared')
    )
    for inner in (*layer.body, *layer.other):
      visit(inner)

  for layer in program.layers:
    visit(layer)
  return found


def run(scope: Scope, layers: tuple[Layer, ...], h: jax.Array) -> jax.Array:
  """Runs layers."""
  for kind, options, body, other in layers:
    if kind in BLOCKS:
      h = BLOCKS[kind](run, scope, h, body, other, **options)
    else:
      h = LAYERS[kind](scope, h, **options)
    if any(n > most for n, most in zip(h.shape, MOST, strict=True)):
      h = h[: MOST[0], : MOST[1]]
  return h


def _huber(h, label, param):
  """Of every position, [T]. Its derivative by h is at most 1."""
  del label, param
  targets = jnp.cos(jnp.arange(h.size, dtype=h.dtype)).reshape(h.shape)
  return jnp.mean(jnp.sqrt(1 + (h - targets) ** 2), 1)


def _softmax(h, label, param):
  del param
  picked = h[:, label % h.shape[1]]
  return jax.nn.logsumexp(h, 1) - picked


def _penalised(h, label, param):
  """With a term that is the same for all examples."""
  penalty = jnp.sum(jnp.tanh(param('a', (3, 3)).astype(h.dtype)) ** 2)
  return _huber(h, label, param) + penalty / 9


HEADS = {'huber': _huber, 'softmax': _softmax, 'penalised': _penalised}


def _name(slot, shape):
  return f'{slot}{list(shape)}'


def _reading(program):
  """(param, example) → (Σ of losses, its weight) of one example."""

  def of_one(param, example):
    h = example['x'].astype(program.compute)
    scope = Scope(param, example, jnp.dtype(program.narrow))
    h = run(scope, program.layers, h)
    losses = HEADS[program.head](h, example['label'], param)
    if program.mean == 'tokens':
      weights = jnp.resize(example['token'], len(losses)) % 3
      kept = jnp.where(weights > 0, losses, 0) * weights.astype(losses.dtype)
      return jnp.sum(kept), jnp.sum(weights).astype(float)
    weight = jnp.ones([])
    if program.mean == 'classes':
      weight = jnp.asarray([0.5, 1.0, 0.0, 3.0])[example['label']]
    return jnp.mean(losses) * weight.astype(losses.dtype), weight

  return of_one


def _by_map(function, params, batch):
  return jax.lax.map(lambda example: function(params, example), batch)


def _unrolled(function, params, batch):
  each = [
    function(params, jax.tree.map(lambda x, i=i: x[i], batch))
    for i in range(len(batch['x']))
  ]
  return jax.tree.map(lambda *xs: jnp.stack(xs), *each)


BATCHED = {
  'vmap': lambda function, params, batch: jax.vmap(function, (None, 0))(
    params, batch
  ),
  'map': _by_map,
  'unrolled': _unrolled,
}


def _of_batch(program, of_one):
  def of_batch(params, batch):
    totals, weights = BATCHED[program.batched](of_one, params, batch)
    if program.mean == 'examples':
      return jnp.mean(totals)
    return adaopt.WeightedLoss(jnp.sum(totals), jnp.sum(weights))

  return of_batch


def _batch(program):
  count = program.samples * program.group_size
  rng = np.random.default_rng(program.seed)
  tokens = rng.integers(0, 5, (count, program.length))
  tokens[0] = 1  # some weight there must be
  labels = np.arange(count) % 4
  return {
    'x': rng.normal(size=(count, program.length, program.width)),
    'token': tokens,
    'label': labels,
    'first': np.arange(count) == 0,
  }


def _param(seed, name, shape):
  """As large as keeps activations around 1."""
  rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
  fan_in = math.prod(shape[-2:-1])
  return rng.normal(size=shape) / np.sqrt(fan_in)


def losses_of(program: Program) -> Losses:
  """Parameters, examples and losses; to be called with x64 for float64."""
  batch = jax.tree.map(jnp.asarray, _batch(program))
  batch['x'] = batch['x'].astype(program.compute)
  reading, params = _reading(program), {}

  def made(slot, shape):
    params[_name(slot, shape)] = shape
    return jnp.zeros(shape, program.params)

  one = jax.tree.map(lambda x: x[0], batch)
  jax.eval_shape(lambda example: reading(made, example), one)
  params = {
    name: jnp.asarray(_param(program.seed, name, shape), program.params)
    for name, shape in sorted(params.items())
  }
  of_one = lambda params, example: reading(
    lambda slot, shape: params[_name(slot, shape)], example
  )
  return Losses(params, batch, of_one, _of_batch(program, of_one))
