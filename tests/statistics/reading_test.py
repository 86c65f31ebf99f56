"""If these fail, a step computes statistics in vain, or lacks those it needs.

What an update reads is told apart leaf by leaf: a criterion that reads one
tensor's variance must not cost those of the others.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt
from adaopt import criteria
from adaopt._common import arithmetic
from adaopt.per_example.program import pruning
from adaopt.statistics import reading

X = {'x': jnp.array([1.0, 2.0]), 'y': jnp.array([3.0, 5.0])}
TRUE = jnp.bool_(True)


# Whether x and y are read.
FUNCTIONS = {
  'a sum': (lambda a: jnp.sum(a['x']), (True, False)),
  'both': (lambda a: a['x'] @ a['y'], (True, True)),
  'neither': (lambda a: jnp.ones(2), (False, False)),
  'as they are': (lambda a: a, (True, True)),
  'computed in vain': (lambda a: (a['x'] + a['y'], a['y'])[1], (False, True)),
  'only the shape': (lambda a: a['x'] * a['y'].size, (True, False)),
  'under jit': (
    lambda a: jax.jit(lambda a: (a['x'], a['y']))(a)[0],
    (True, False),
  ),
  'in one branch': (
    lambda a: jax.lax.cond(TRUE, lambda: a['x'], lambda: a['y']),
    (True, True),
  ),
  'by one branch, in vain': (
    lambda a: jax.lax.cond(
      TRUE, lambda: (a['x'], a['y']), lambda: (a['x'], a['x'])
    )[0],
    (True, False),
  ),
  'as a condition': (
    lambda a: jnp.where(a['y'][0] > 0, a['x'], 0.0),
    (True, True),
  ),
  'carried through a scan': (
    lambda a: jax.lax.scan(
      lambda c, _: ((2 * c[0], c[1] + c[0]), None), (a['x'], a['y']), length=3
    )[0][0],
    (True, False),
  ),
  'carried from one to the other': (
    lambda a: jax.lax.scan(
      lambda c, _: ((2 * c[0] + c[1], c[1]), None), (a['x'], a['y']), length=3
    )[0][0],
    (True, True),
  ),
  'under vmap': (
    lambda a: jax.vmap(lambda x, y: (x, y))(a['x'], a['y'])[0],
    (True, False),
  ),
  'under remat': (
    lambda a: jax.checkpoint(lambda a: (a['x'], a['y']))(a)[1],
    (False, True),
  ),
}


@pytest.mark.parametrize(
  ('function', 'expected'), FUNCTIONS.values(), ids=FUNCTIONS
)
def test_leaves_are_read_that_the_result_depends_on(function, expected):
  x, y = expected
  shapes = jax.eval_shape(lambda: X)
  for argument in (X, shapes):
    assert reading.leaves_read(function, argument) == {'x': x, 'y': y}


def test_only_the_first_argument_is_told_of():
  read = reading.leaves_read(
    lambda a, b, c: a['x'] * b + c, X, 2.0, jnp.ones(2)
  )
  assert read == {'x': True, 'y': False}


BATCHED = jax.tree.map(lambda x: jnp.stack([x, 2 * x, -x]), X)
TRANSFORMS = {
  'eagerly': (lambda f: f, X),
  'jit': (jax.jit, X),
  'vmap': (jax.vmap, BATCHED),
  'jit of vmap': (lambda f: jax.jit(jax.vmap(f)), BATCHED),
  'reverse mode': (jax.jacrev, X),
  'forward mode': (jax.jacfwd, X),
  'in a scan': (lambda f: lambda a: jax.lax.map(f, a), BATCHED),
}


@pytest.mark.slow
@pytest.mark.parametrize(
  ('transform', 'argument'), TRANSFORMS.values(), ids=TRANSFORMS
)
@pytest.mark.parametrize('name', FUNCTIONS)
def test_pruned_equals_the_function(name, transform, argument):
  function, _ = FUNCTIONS[name]
  expected = transform(function)(argument)
  found = transform(pruning.pruned(function))(argument)
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_pruned_takes_several_arguments_and_constants():
  constant = jnp.arange(2.0)
  run = pruning.pruned(lambda a, b: {'z': a['x'] * constant + b, 'n': None})
  found = run(X, jnp.ones(2))
  assert found['z'].tolist() == [1.0, 3.0]
  assert found['n'] is None


def _outputs(function, *args):
  """How many values all scans carry and stack."""
  closed = jax.make_jaxpr(function)(*args)
  return [
    len(equation.outvars)
    for equation in closed.eqns
    if equation.primitive.name == 'scan'
  ]


def test_an_unread_sum_is_not_carried_through_a_loop():
  def function(a):
    body = lambda c, x: ((c[0] + x, c[1] + x**2), x**3)
    return jax.lax.scan(body, (0.0, 0.0), a['x'])[0][0]

  assert _outputs(function, X) == [3]
  assert _outputs(pruning.pruned(function), X) == [1]


def test_pruned_computes_nothing_in_vain():
  function = lambda a: (jnp.sin(a['y']), jnp.cos(a['x']))[1]
  names = lambda f: [
    equation.primitive.name for equation in jax.make_jaxpr(f)(X).eqns
  ]
  assert 'sin' in names(function)
  assert names(pruning.pruned(function)) == ['cos']


def _prints(a):
  """Prints what it does not return, in a loop, in a call, and outside."""

  def body(carry, x):
    jax.debug.print('scan {}', x)
    return carry + x, None

  total, _ = jax.lax.scan(body, 0.0, a['y'])
  jax.jit(lambda t: jax.debug.print('call {}', t))(total)
  jax.debug.print('outside {}', total)
  return a['x']


@pytest.mark.parametrize('transform', [lambda f: f, jax.jit])
def test_effects_survive(transform, capfd):
  found = transform(pruning.pruned(_prints))(X)
  jax.effects_barrier()
  printed = capfd.readouterr().out.split('\n')
  assert sorted(filter(None, printed)) == [
    'call 8.0',
    'outside 8.0',
    'scan 3.0',
    'scan 5.0',
  ]
  np.testing.assert_array_equal(found, X['x'])


PARAMS = {'w': jnp.ones(3), 'b': jnp.ones([]), 's': jnp.ones(2)}
VARIANCE = {'variance.w', 'variance.b', 'variance.s'}
COORDINATE = {f'coordinate_{name}' for name in VARIANCE}
ALONG = {'variance_along_mean'}
NONE = set()


def names_read(read):
  """The names of the leaves of the noise that are read."""
  names = set()
  for field in reading.NOISE:
    for path, is_read in jax.tree_util.tree_leaves_with_path(
      getattr(read, field)
    ):
      if is_read:
        keys = jax.tree_util.keystr(path, simple=True, separator='.')
        names.add(f'{field}.{keys}' if keys else field)
  return names


def reads_of(optimizer, params=PARAMS):
  """What it reads where a test is due, and where none is."""
  optimizer = optax.with_extra_args_support(optimizer)

  def update(statistics, params, state):
    return optimizer.update(
      statistics.mean,
      state,
      params,
      statistics=statistics,
      value=jnp.ones([]),
      opt_state=state,
    )

  state = jax.eval_shape(optimizer.init, params)
  shapes = jax.eval_shape(lambda: params)
  every = reading.shapes_of(shapes)
  reads = reading.reads_of(update, every, shapes, state)
  return names_read(reads.tested), names_read(reads.untested)


def adapted_by(criterion, *rest, **options):
  adapt = adaopt.adapt_batch_size(
    criterion, init_batch_size=8, max_batch_size=64, **options
  )
  return optax.chain(adapt, *(rest or (optax.sgd(0.1),)))


def _of_two_tensors(statistics):
  noise = statistics.variance['w'] + statistics.variance['s']
  return criteria.ratio(noise, criteria.squared_norm(statistics))


CRITERIA = {
  'norm': (adaopt.norm_test(0.5), VARIANCE),
  'big batch': (criteria.big_batch_test(), VARIANCE),
  'debiased norm': (adaopt.debiased_norm_test(0.5), VARIANCE),
  'noise scale': (adaopt.gradient_noise_scale(), VARIANCE),
  'cabs': (criteria.cabs(1.0), VARIANCE),
  'diversity': (criteria.gradient_diversity(0.5, num_examples=99), VARIANCE),
  'inner product': (adaopt.inner_product_test(0.5), ALONG),
  'orthogonality': (criteria.orthogonality_test(0.5), VARIANCE | ALONG),
  'augmented': (
    adaopt.augmented_inner_product_test(0.5, nu=0.5),
    VARIANCE | ALONG,
  ),
  'coordinate': (adaopt.coordinate_norm_test(0.5), COORDINATE),
  'coordinate, mean': (adaopt.coordinate_norm_test(0.5, jnp.mean), COORDINATE),
  'sign': (criteria.sign_noise_scale(0.6), COORDINATE),
  'two in one': (
    adaopt.all_of(adaopt.norm_test(0.5), adaopt.inner_product_test(0.5)),
    VARIANCE | ALONG,
  ),
  'all kinds': (
    adaopt.all_of(
      adaopt.coordinate_norm_test(0.5),
      adaopt.augmented_inner_product_test(0.5, nu=0.5),
    ),
    VARIANCE | COORDINATE | ALONG,
  ),
  'along the mean': (lambda s: s.variance_along_mean, ALONG),
  'two tensors': (_of_two_tensors, {'variance.w', 'variance.s'}),
  'one coordinate': (
    lambda s: s.coordinate_variance['w'][0],
    {'coordinate_variance.w'},
  ),
  'the mean': (lambda s: 3 * criteria.squared_norm(s), NONE),
  'the size': (lambda s: 3 * s.batch_size, NONE),
  'in vain': (
    lambda s: (arithmetic.total(s.variance), 2 * s.batch_size)[1],
    NONE,
  ),
  'under jit': (jax.jit(adaopt.norm_test(0.5)), VARIANCE),
  'in a branch': (
    lambda s: jax.lax.cond(
      s.batch_size > 8,
      lambda s: s.variance_along_mean,
      lambda s: s.variance['b'],
      s,
    ),
    ALONG | {'variance.b'},
  ),
}


@pytest.mark.parametrize(('criterion', 'read'), CRITERIA.values(), ids=CRITERIA)
def test_a_criterion_is_given_exactly_what_it_reads(criterion, read):
  assert reads_of(adapted_by(criterion)) == (read, NONE)


def test_a_spectral_test_reads_squares_of_matrices_and_coordinates_of_others():
  optimizer = adapted_by(criteria.spectral_noise_scale(0.6))
  params = {'w': jnp.ones([3, 2]), 'b': jnp.ones(2), 'k': jnp.ones([2, 2, 2])}
  read = {'matrix_variance.w', 'coordinate_variance.b', 'coordinate_variance.k'}
  assert reads_of(optimizer, params) == (read, NONE)


@pytest.mark.parametrize(
  ('preconditioner', 'inner'),
  [
    (criteria.adam_preconditioner(), optax.adam(0.1)),
    (criteria.adagrad_preconditioner(), adaopt.adagrad(0.1)),
  ],
  ids=['adam', 'adagrad'],
)
def test_a_preconditioned_test_reads_every_coordinate(preconditioner, inner):
  criterion = criteria.preconditioned_norm_test(0.5, preconditioner)
  assert reads_of(adapted_by(criterion, inner)) == (COORDINATE, NONE)


@pytest.mark.parametrize(
  'policy',
  [
    adaopt.batch_size.measure,
    adaopt.follow,
    adaopt.batch_size.hysteresis(2.0),
    adaopt.capped_growth(2.0),
    adaopt.batch_size.geometric_growth(2.0),
  ],
  ids=['measure', 'follow', 'hysteresis', 'capped', 'geometric'],
)
def test_a_policy_changes_nothing_that_is_read(policy):
  """Also one that never moves: what is required is in the metrics."""
  optimizer = adapted_by(adaopt.norm_test(0.5), policy=policy)
  assert reads_of(optimizer) == (VARIANCE, NONE)


BATCH = dict(init_batch_size=8, max_batch_size=64)
OPTIMIZERS = {
  'schedule': (
    optax.chain(adaopt.schedule_batch_size(8), optax.adam(0.1)),
    NONE,
    NONE,
  ),
  'adaptive': (adaopt.adaptive(optax.sgd(1.0), 0.1, **BATCH), VARIANCE, NONE),
  'adaptive, its rate by noise': (
    adaopt.adaptive(
      optax.sgd(1.0),
      0.1,
      scaling=adaopt.scale_by_adascale(base_batch_size=8),
      **BATCH,
    ),
    VARIANCE,
    VARIANCE,
  ),
  'adadagrad': (
    adaopt.adadagrad(0.1, adaopt.inner_product_test(0.5), **BATCH),
    ALONG,
    NONE,
  ),
  'adadagrad norm': (
    adaopt.adadagrad_norm(0.1, adaopt.coordinate_norm_test(0.5), **BATCH),
    COORDINATE,
    NONE,
  ),
  'rate by batch size': (
    adapted_by(
      adaopt.norm_test(0.5), adaopt.scale_by_batch_size(), optax.sgd(0.1)
    ),
    VARIANCE,
    NONE,
  ),
  # AdaScale averages the noise of every step.
  'adascale by schedule': (
    optax.chain(
      adaopt.schedule_batch_size(8),
      adaopt.scale_by_adascale(base_batch_size=8),
    ),
    VARIANCE,
    VARIANCE,
  ),
  'adascale beside a norm test': (
    adapted_by(
      adaopt.norm_test(0.5), adaopt.scale_by_adascale(base_batch_size=8)
    ),
    VARIANCE,
    VARIANCE,
  ),
  'adascale beside an inner-product test': (
    adapted_by(
      adaopt.inner_product_test(0.5),
      adaopt.scale_by_adascale(base_batch_size=8),
    ),
    VARIANCE | ALONG,
    VARIANCE,
  ),
}


@pytest.mark.parametrize(
  ('optimizer', 'tested', 'untested'), OPTIMIZERS.values(), ids=OPTIMIZERS
)
def test_an_optimizer_reads_what_its_parts_read(optimizer, tested, untested):
  assert reads_of(optimizer) == (tested, untested)


def _scale_by_noise():
  """A transform of a user's own that reads one tensor's noise."""

  def update(updates, state, params=None, *, statistics, **extra_args):
    del params, extra_args
    factor = 1 / (1 + statistics.variance['w'])
    return jax.tree.map(lambda u: factor * u, updates), state

  return optax.GradientTransformationExtraArgs(lambda p: (), update)


WRAPPERS = {
  'apply_if_finite': lambda t: optax.apply_if_finite(
    t, max_consecutive_errors=3
  ),
  'inject_hyperparams': lambda t: optax.inject_hyperparams(
    lambda rate: optax.chain(t, optax.scale(rate))
  )(rate=1.0),
  'masked': lambda t: optax.chain(
    optax.masked(optax.clip(1.0), {'w': True, 'b': False, 's': False}), t
  ),
  'partition': lambda t: optax.chain(
    optax.partition(
      {'x': optax.sgd(0.1), 'y': optax.adam(0.1)},
      {'w': 'x', 'b': 'y', 's': 'x'},
    ),
    t,
  ),
  'within masked': lambda t: optax.masked(t, {'w': True, 'b': True, 's': True}),
  'within partition': lambda t: optax.partition(
    {'x': t}, {'w': 'x', 'b': 'x', 's': 'x'}
  ),
  'within a partition of two': lambda t: optax.partition(
    {'x': t, 'y': optax.set_to_zero()}, {'w': 'x', 'b': 'y', 's': 'x'}
  ),
  'named chain': lambda t: optax.named_chain(
    ('adapt', t), ('rate', optax.sgd(1.0))
  ),
  'conditionally': lambda t: optax.conditionally_transform(
    t, lambda step: step >= 0
  ),
}


@pytest.mark.parametrize('wrap', WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize('name', ['norm', 'two tensors', 'augmented'])
def test_wrappers_change_nothing_that_is_read(wrap, name):
  criterion, read = CRITERIA[name]
  assert reads_of(wrap(adapted_by(criterion))) == (read, NONE)


@pytest.mark.parametrize('wrap', WRAPPERS.values(), ids=WRAPPERS)
def test_what_else_reads_noise_does_so_in_every_step(wrap):
  adapt = adapted_by(adaopt.inner_product_test(0.5), _scale_by_noise())
  assert reads_of(wrap(adapt)) == (ALONG | {'variance.w'}, {'variance.w'})


def test_statistics_have_the_shapes_and_types_of_a_gradient():
  params = {
    'narrow': jnp.zeros(3, jnp.bfloat16),
    'complex': jnp.zeros([2, 4], jnp.complex64),
  }
  shapes = reading.shapes_of(params)
  described = jax.tree.map(lambda x: (x.shape, str(x.dtype)), shapes)
  assert described == adaopt.GradientStatistics(
    batch_size=((), 'int32'),
    mean={'narrow': ((3,), 'bfloat16'), 'complex': ((2, 4), 'complex64')},
    variance={'narrow': ((), 'float32'), 'complex': ((), 'float32')},
    coordinate_variance={
      'narrow': ((3,), 'float32'),
      'complex': ((2, 4), 'float32'),
    },
    variance_along_mean=((), 'float32'),
    matrix_variance={'narrow': None, 'complex': ((2, 2), 'complex64')},
  )
  # They are those of statistics that are computed.
  loss_fn = lambda p, x: jnp.mean(
    x * (jnp.sum(p['narrow']) + jnp.sum(jnp.abs(p['complex']) ** 2))
  )
  estimate = adaopt.value_and_statistics(loss_fn)
  _, computed = jax.eval_shape(estimate, params, jnp.ones(4))
  assert described == jax.tree.map(lambda x: (x.shape, str(x.dtype)), computed)


def test_selection_leaves_out_what_is_not_read():
  read = {'x': True, 'y': False}
  assert reading.select(read, {'x': 1, 'y': 2}) == {'x': 1, 'y': None}
  statistics = adaopt.GradientStatistics(True, {'x': True}, read, read, False)
  assert reading.noise_read(statistics) == [True, False, True, False, False]
