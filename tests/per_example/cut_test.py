"""Tails, factors, shared values and unknown primitives of tiny programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaopt.per_example import cut
from adaopt.per_example.program import inlining, ir
from tests import per_example_programs as programs

EXPECTED = {
  'dense': [('dot_general transpose', [(3,), (4,)], [], None)],
  'dense on a sequence': [
    ('dot_general transpose', [(5, 3), (5, 4)], [], None)
  ],
  'bias': [('', [(4,)], [], None)],
  'embedding': [('scatter-add', [(3, 1), (3, 3)], [(7, 3)], None)],
  'convolution': [
    ('conv_general_dilated', [(1, 3, 5, 5), (1, 2, 4, 4)], [], None)
  ],
  'used twice': [
    (
      'dot_general transpose dot_general transpose add_any',
      [(4,), (4,), (4,), (4,)],
      [],
      None,
    )
  ],
  'tied embedding': [
    (
      'dot_general transpose transpose scatter-add add_any',
      [(3, 1), (3, 3), (3, 7), (3, 3)],
      [(7, 3)],
      None,
    )
  ],
  'masked': [('dot_general transpose mul', [(3,), (4,)], [(4, 3)], 'mul')],
  'normalised': [
    (
      'dot_general transpose mul mul reduce_sum neg div mul '
      'broadcast_in_dim mul add_any',
      [(3,), (4,)],
      [(4, 3), (), (4, 3), (), ()],
      'mul',
    )
  ],
  'scan over time': [('dot_general transpose', [(5, 3), (5, 4)], [], None)],
  'scan over layers': [('dot_general transpose', [(6, 4), (6, 4)], [], None)],
  'split cell': [
    ('dot_general transpose', [(5, 3), (5, 4)], [], None),
    ('dot_general transpose', [(5, 3), (5, 4)], [], None),
  ],
  'sorted': [
    (
      'dot_general transpose scatter-add',
      [(3,), (4,)],
      [(4, 3), (4, 3, 1)],
      None,
    )
  ],
  'cumulated': [('dot_general transpose cumsum', [(3,), (4,)], [], 'cumsum')],
}


@pytest.mark.parametrize('name', programs.PROGRAMS)
def test_a_tail_is_what_is_written_here(name):
  assert programs.tails_of(*programs.hoisted(name)) == EXPECTED[name]


def space_of(loss):
  """The shapes in weight space of the gradient of loss(w, x)."""
  w, x = np.ones((4, 3)), np.ones(4)
  jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(w, x)
  flat = inlining.flatten(jaxpr)
  per_sample = ir.dependents(flat.equations, flat.inputs[1:])
  space = cut.weight_space(flat, flat.outputs[:1], per_sample)
  return flat, space, per_sample


def test_weight_space_starts_at_an_outer_product():
  loss = lambda w, x: programs.total(x @ (w * np.tri(4, 3)))
  flat, space, _ = space_of(loss)
  names = [flat.producers[v].name for v in sorted(space)]
  assert names == ['dot_general', 'transpose', 'mul']


def test_without_weight_space_a_masked_gradient_is_its_own_factor():
  loss = lambda w, x: programs.total(x @ (w * np.tri(4, 3)))
  flat, space, per_sample = space_of(loss)
  find = lambda space: cut.find_tail(flat, flat.outputs[1], per_sample, space)
  shapes = lambda tail: [tail.shape(v) for v in tail.factors]
  assert shapes(find(space)) == [(3,), (4,)]
  assert shapes(find(set())) == [(4, 3)]


def test_what_the_loss_needs_is_not_in_weight_space():
  loss = lambda w, x: programs.total(w * x[:, None])
  flat, space, _ = space_of(loss)
  needed = ir.needed(flat.equations, flat.outputs[:1])
  assert not space.intersection(v for e in needed for v in e.outputs)


def test_a_shared_gradient_has_no_tail():
  jaxpr = jax.make_jaxpr(lambda w, x: jnp.sin(w))(np.ones(3), np.ones(3))
  flat = inlining.flatten(jaxpr)
  per_sample = ir.dependents(flat.equations, flat.inputs[1:])
  assert cut.find_tail(flat, flat.outputs[0], per_sample, set()) is None
