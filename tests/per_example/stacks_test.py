"""Gradients that scans emit are reduced within the scans."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adaopt
from adaopt.per_example import cut, stacks
from adaopt.per_example.hoisting import loops
from adaopt.per_example.program import inlining, ir
from adaopt.per_example.rules import choice, dense, direct
from tests import per_example_cases

pytestmark = pytest.mark.usefixtures('optimised')
BATCH, LENGTH, WIDTH = 16, 32, 48


def cuts_of(name):
  apply, params, x = per_example_cases.CASES[name]()
  loss = per_example_cases.loss_of(apply)
  leaves, treedef = jax.tree.flatten(params)
  gradient = jax.grad(lambda p, x: loss(treedef.unflatten(p), x)[0])
  flat = inlining.flatten(jax.make_jaxpr(gradient)(leaves, x[0]))
  every = range(len(leaves))
  flat = loops.hoist(flat, every, every)
  per_sample = ir.dependents(flat.equations, flat.inputs[len(leaves) :])
  return stacks.cut_off(flat, [], flat.outputs, per_sample)


def rules_of(cuts):
  """The rules of the steps of all scans, at any depth."""
  found = []
  for loop in cuts.loops.values():
    found += [choice.choose(t, choice.NORMS_FIRST) for t in loop.cuts.tails]
    found += rules_of(loop.cuts)
  return found


@pytest.mark.parametrize(
  ('name', 'rules'),
  [
    ('scan over layers, remat', [direct.DIRECT, dense.OUTER]),
    ('scan of scans over layers', [direct.STACKED, dense.GRAM]),
  ],
)
def test_the_rules_of_a_step(name, rules):
  assert rules_of(cuts_of(name)) == rules


@pytest.mark.parametrize(
  'name', ['layers scanned twice', 'scan over layers and a penalty on them']
)
def test_what_is_added_to_afterwards_is_hoisted(name):
  cuts = cuts_of(name)
  assert not cuts.loops
  assert not any(isinstance(tail, cut.Stacked) for tail in cuts.tails)


def init(layers, length=LENGTH, width=WIDTH):
  rng = np.random.default_rng(0)
  normal = lambda *shape: np.float32(rng.normal(0, 0.15, shape))
  params = {
    'layers': {'w': normal(layers, width, width), 'b': normal(layers, width)},
    'out': normal(width, 3),
  }
  return params, normal(BATCH, length, width)


def network(params, x, layer):
  step = lambda h, w: (layer(w, h), None)
  return jax.lax.scan(step, x, params['layers'])[0] @ params['out']


def plain_layer(w, h):
  return h + jnp.tanh(jnp.tanh(h) @ w['w'] + w['b'][None, None])


@jax.custom_vjp
def reversible(w, h):
  """A layer that has no forward mode."""
  return plain_layer(w, h)


reversible.defvjp(
  lambda w, h: jax.vjp(plain_layer, w, h), lambda vjp, cotangent: vjp(cotangent)
)


def mean_loss(layer, params, x):
  return jnp.mean(network(params, x, layer) ** 2)


def weighted_loss(layer, params, x):
  weights = 1 + (x[..., 0] > 0)
  errors = jnp.sum(network(params, x, layer) ** 2, -1)
  return adaopt.WeightedLoss(jnp.sum(weights * errors), jnp.sum(weights))


def unrolled(params, x, layer):
  h = x
  for i in range(len(params['layers']['w'])):
    h = layer(jax.tree.map(lambda w, i=i: w[i], params['layers']), h)
  return h @ params['out']


@pytest.mark.slow
@pytest.mark.parametrize('loss', [mean_loss, weighted_loss])
@pytest.mark.parametrize('layer', [jax.checkpoint(plain_layer), reversible])
def test_statistics_are_those_of_a_network_without_a_scan(
  loss, layer, monkeypatch
):
  with jax.enable_x64(True):
    args = jax.tree.map(np.float64, init(2, length=3, width=4))
    estimate = lambda: jax.jit(
      adaopt.value_and_statistics(functools.partial(loss, layer))
    )(*args)
    actual = jax.device_get(estimate())
    monkeypatch.setitem(globals(), 'network', unrolled)
    expected = jax.device_get(estimate())
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, 1e-10, 1e-13),
    actual,
    expected,
  )


def memory(function, layers):
  compiled = jax.jit(function).lower(*init(layers)).compile()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize('only', [('variance',), ()])
def test_memory_is_that_of_a_plain_gradient_and_so_is_that_of_a_layer(only):
  loss = functools.partial(mean_loss, jax.checkpoint(plain_layer))
  plain = jax.value_and_grad(loss)
  measured = adaopt.value_and_statistics(loss, only=only)
  few, many = ([memory(f, n) for f in (plain, measured)] for n in (8, 16))
  assert few[1] <= 1.3 * few[0]
  assert many[1] - few[1] <= 1.3 * (many[0] - few[0])
