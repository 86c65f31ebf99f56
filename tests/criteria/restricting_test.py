"""If these fail, a test hears tensors that it was told to leave out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import adaopt
from adaopt import criteria
from adaopt.statistics import reading

GRADIENTS = np.random.default_rng(0).normal(size=(6, 9)) + 0.5
GRADIENTS[:, 2] -= 0.99 * GRADIENTS[:, 2].mean()  # what a maximum would hear
SPANS = {'block/norm/scale': (0, 2), 'block/w': (2, 8), 'head': (8, 9)}
FILTER = ['block/norm/scale', 'head'].__contains__
MASK = {'block': {'norm': {'scale': True}, 'w': False}, 'head': True}
COLUMNS = [0, 1, 8]


def _tree(scale, w, head):
  return {'block': {'norm': {'scale': scale}, 'w': w}, 'head': head}


def _unravel(row):
  row = jnp.asarray(row, jnp.float32)
  return _tree(row[:2], row[2:8].reshape(2, 3), row[8])


def _per_tensor(function):
  return _tree(
    *[
      jnp.float32(function(GRADIENTS[:, slice(*span)]))
      for span in SPANS.values()
    ]
  )


STATISTICS = adaopt.GradientStatistics(
  jnp.int32(6),
  _unravel(oracles.mean(GRADIENTS)),
  _per_tensor(oracles.total_variance),
  _unravel(oracles.coordinate_variances(GRADIENTS)),
  jnp.float32(oracles.variance_along_mean(GRADIENTS)),
)


def _debiased(g):
  v, m = oracles.total_variance(g), oracles.squared_norm(oracles.mean(g))
  return v / max(m - v / len(g), 0.01 * m)


def _sign(g):
  noise = np.sqrt(oracles.coordinate_variances(g)).sum()
  return (noise / abs(oracles.mean(g)).sum()) ** 2 / 0.25


def _diversity(g):
  squares = sum(oracles.squared_norm(row) for row in g)
  return 0.5 * 6 * squares / oracles.squared_norm(g.sum(0))


CRITERIA = {
  'norm': (adaopt.norm_test(0.5), lambda g: oracles.norm_requirement(g, 0.5)),
  'coordinate': (
    adaopt.coordinate_norm_test(0.5),
    lambda g: max(oracles.coordinate_requirements(g, 0.5)),
  ),
  'mean of all': (
    adaopt.coordinate_norm_test(0.5, jnp.mean),
    lambda g: np.mean(oracles.coordinate_requirements(g, 0.5)),
  ),
  'all of': (
    adaopt.all_of(adaopt.norm_test(0.1), adaopt.coordinate_norm_test(9.0)),
    lambda g: oracles.norm_requirement(g, 0.1),
  ),
  'all of, with memory': (
    adaopt.all_of(adaopt.norm_test(9.0), adaopt.gradient_noise_scale()),
    _debiased,
  ),
  'noise scale': (adaopt.gradient_noise_scale(), _debiased),
  'cabs': (
    criteria.cabs(0.5),
    lambda g: 0.5 * oracles.total_variance(g) / 2.0,
  ),
  'sign': (criteria.sign_noise_scale(0.5), _sign),
  'diversity': (criteria.gradient_diversity(0.5, num_examples=6), _diversity),
  'under jit': (
    jax.jit(adaopt.norm_test(0.5)),
    lambda g: oracles.norm_requirement(g, 0.5),
  ),
}


def _required(criterion, statistics=STATISTICS, **extra_args):
  if not isinstance(criterion, adaopt.StatefulCriterion):
    return criterion(statistics)
  state = criterion.init(STATISTICS.mean)
  return criterion.update(statistics, state, **extra_args)[0]


@pytest.mark.slow
@pytest.mark.parametrize('filter', [FILTER, MASK], ids=['paths', 'mask'])
@pytest.mark.parametrize(
  ('criterion', 'oracle'), CRITERIA.values(), ids=CRITERIA
)
def test_it_is_the_criterion_of_the_selected_coordinates(
  criterion, oracle, filter
):
  restricted = adaopt.of_tensors(criterion, filter)
  expected = oracle(GRADIENTS[:, COLUMNS])
  for call in (_required, jax.jit(_required, static_argnums=0)):
    found = call(restricted, STATISTICS, value=jnp.float32(2.0))
    # Sums of some ten float32, and a difference of them.
    np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert abs(oracle(GRADIENTS) / expected - 1) > 1e-3


def test_a_function_stays_a_function_and_a_memory_stays_one():
  assert not isinstance(
    adaopt.of_tensors(adaopt.norm_test(0.5), FILTER), adaopt.StatefulCriterion
  )
  seen = []
  criterion = adaopt.StatefulCriterion(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda s, state, **extra: (
      seen.append(extra),
      jax.tree.map(jnp.add, state, s.mean),
    ),
  )
  restricted = adaopt.of_tensors(criterion, FILTER)
  state = restricted.init(STATISTICS.mean)
  mean = STATISTICS.mean
  expected = {
    'block/norm/scale': mean['block']['norm']['scale'],
    'head': mean['head'],
  }
  assert jax.tree.structure(state) == jax.tree.structure(expected)
  _, state = restricted.update(
    STATISTICS, state, value=2.0, name='x', call=len, nothing=None
  )
  jax.tree.map(np.testing.assert_array_equal, state, expected)
  assert seen == [dict(value=2.0, name='x', call=len, nothing=None)]


def test_a_criterion_of_ones_own_finds_tensors_by_their_paths():
  criterion = lambda s: (s.batch_size + s.variance['head'], sorted(s.mean))
  required, names = adaopt.of_tensors(criterion, FILTER)(STATISTICS)
  np.testing.assert_array_equal(required, 6 + STATISTICS.variance['head'])
  assert names == ['block/norm/scale', 'head']


def test_restrictions_nest_and_combine():
  norm = adaopt.norm_test(0.5)
  twice = adaopt.of_tensors(
    adaopt.of_tensors(norm, FILTER), lambda path: path == 'head'
  )
  expected = oracles.norm_requirement(GRADIENTS[:, [8]], 0.5)
  np.testing.assert_allclose(twice(STATISTICS), expected, rtol=1e-5)
  apart = adaopt.all_of(
    *(
      adaopt.of_tensors(norm, lambda path, name=name: path == name)
      for name in SPANS
    ),
    adaopt.inner_product_test(9.0),
  )
  expected = max(
    oracles.norm_requirement(GRADIENTS[:, slice(*span)], 0.5)
    for span in SPANS.values()
  )
  np.testing.assert_allclose(apart(STATISTICS), expected, rtol=1e-5)


def test_a_single_array_and_a_list_have_paths_too():
  single = adaopt.GradientStatistics(
    jnp.int32(8), jnp.array([3.0, 4.0]), jnp.array(50.0)
  )
  whole = adaopt.of_tensors(adaopt.norm_test(0.5), lambda path: path == '')
  assert whole(single) == 8.0
  assert adaopt.of_tensors(adaopt.norm_test(0.5), True)(single) == 8.0
  pair = adaopt.GradientStatistics(
    jnp.int32(8), [jnp.array([3.0, 4.0]), jnp.ones(2)], [jnp.array(50.0)] * 2
  )
  first = adaopt.of_tensors(adaopt.norm_test(0.5), lambda path: path == '0')
  assert first(pair) == 8.0


def test_what_was_left_out_may_be_missing():
  variance = _tree(STATISTICS.variance['block']['norm']['scale'], None, None)
  variance['head'] = STATISTICS.variance['head']
  statistics = STATISTICS._replace(variance=variance, coordinate_variance=None)
  restricted = adaopt.of_tensors(adaopt.norm_test(0.5), FILTER)
  np.testing.assert_array_equal(restricted(statistics), restricted(STATISTICS))


def _selected(field, is_read):
  read = reading.shapes_of(STATISTICS.mean)
  nothing = jax.tree.map(lambda x: False, read)
  return nothing._replace(
    **{field: jax.tree.map(lambda x: x and is_read, MASK)}
  )


def _noise(read):
  return {field: getattr(read, field) for field in reading.NOISE}


@pytest.mark.parametrize('filter', [FILTER, MASK], ids=['paths', 'mask'])
@pytest.mark.parametrize(
  ('criterion', 'field'),
  [
    (adaopt.norm_test(0.5), 'variance'),
    (adaopt.gradient_noise_scale(), 'variance'),
    (adaopt.coordinate_norm_test(0.5), 'coordinate_variance'),
    (criteria.sign_noise_scale(0.5), 'coordinate_variance'),
    (
      criteria.preconditioned_norm_test(0.5, criteria.adam_preconditioner()),
      'coordinate_variance',
    ),
  ],
  ids=['norm', 'noise scale', 'coordinate', 'sign', 'preconditioned'],
)
def test_an_update_reads_the_noise_of_the_selected_tensors_alone(
  criterion, field, filter
):
  optimizer = optax.chain(
    adaopt.adapt_batch_size(
      adaopt.of_tensors(criterion, filter),
      init_batch_size=8,
      max_batch_size=64,
    ),
    optax.adam(0.1),
  )

  def update(statistics, params, state):
    return optimizer.update(
      statistics.mean, state, params, statistics=statistics, opt_state=state
    )

  shapes = jax.eval_shape(lambda: STATISTICS.mean)
  state = jax.eval_shape(optimizer.init, shapes)
  every = reading.shapes_of(shapes)
  reads = reading.reads_of(update, every, shapes, state)
  assert _noise(reads.tested) == _noise(_selected(field, True))
  assert _noise(reads.untested) == _noise(_selected(field, False))


PRECONDITIONERS = {
  'adam': (optax.adam(0.1), criteria.adam_preconditioner(b2=0.999)),
  'adagrad': (adaopt.adagrad(0.1), criteria.adagrad_preconditioner()),
  'partition': (
    optax.partition(
      {'trained': optax.adam(0.1), 'frozen': optax.set_to_zero()},
      jax.tree.map(lambda x: 'trained' if x else 'frozen', MASK),
    ),
    criteria.adam_preconditioner(),
  ),
}


@pytest.mark.parametrize(
  ('optimizer', 'preconditioner'), PRECONDITIONERS.values(), ids=PRECONDITIONERS
)
def test_a_preconditioned_test_sees_the_metric_of_the_selected_tensors(
  optimizer, preconditioner
):
  state = optimizer.init(STATISTICS.mean)
  _, state = optimizer.update(_unravel(GRADIENTS[0]), state, STATISTICS.mean)
  criterion = adaopt.of_tensors(
    criteria.preconditioned_norm_test(0.5, preconditioner), FILTER
  )
  found = _required(criterion, opt_state=state)
  # After one step both are 1 / |g_k| up to a common factor.
  g, d = GRADIENTS[:, COLUMNS], 1 / abs(GRADIENTS[0, COLUMNS])
  noise = sum(oracles.coordinate_variances(g) * d)
  signal = sum(oracles.mean(g) ** 2 * d)
  # 1 − β₂ has 13 bits left in float32, and is common to all.
  np.testing.assert_allclose(found, noise / (0.25 * signal), rtol=1e-4)


def _loss_fn(params, batch):
  hidden = batch['x'] @ params['block']['w'] @ params['block']['norm']['scale']
  return jnp.mean((hidden + params['head'] - batch['y']) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('criterion', 'oracle'),
  [
    (adaopt.norm_test(0.2), lambda g: oracles.norm_requirement(g, 0.2)),
    (
      adaopt.gradient_noise_scale(decay=0.0),
      _debiased,
    ),
    (
      adaopt.coordinate_norm_test(0.5, jnp.mean),
      lambda g: oracles.coordinate_requirements(g, 0.5).mean(),
    ),
  ],
  ids=['norm', 'noise scale', 'coordinate'],
)
def test_a_train_step_asks_for_what_the_selected_tensors_need(
  criterion, oracle
):
  optimizer = optax.chain(
    adaopt.adapt_batch_size(
      adaopt.of_tensors(criterion, lambda path: 'norm' in path),
      init_batch_size=16,
      max_batch_size=96,
      policy=adaopt.follow,
    ),
    optax.sgd(0.01),
  )
  x, noise = jax.random.normal(jax.random.key(0), [2, 128, 3])
  y = x @ jnp.array([1.0, -2.0, 3.0]) + noise[:, 0]
  dataset = {'x': x, 'y': y}
  step = adaopt.train_step(_loss_fn, optimizer, micro_batch_size=16)
  params = _tree(jnp.ones(2), jnp.arange(6.0).reshape(3, 2) / 3, jnp.zeros([]))
  state = adaopt.init_train_state(params, optimizer)
  sizes = []
  for _ in range(3):
    params, start = state.params, int(state.examples)
    state, metrics = step(state, dataset)
    sizes.append(int(metrics.batch_size))
    batch = adaopt.draw(dataset, 0, start + jnp.arange(sizes[-1]))
    gradients = oracles.sample_gradients(_loss_fn, params, batch)
    expected = oracle(gradients[:, :2].astype(np.float64))
    # Gradients in float32, and differences of their sums.
    np.testing.assert_allclose(metrics.required, expected, rtol=1e-3)
  assert len(set(sizes)) > 1


def test_it_is_a_static_argument_of_injected_hyperparams():
  injected = optax.inject_hyperparams(
    adaopt.adadagrad, static_args=('criterion', 'policy')
  )(
    0.1,
    adaopt.of_tensors(adaopt.gradient_noise_scale(), MASK),
    init_batch_size=1,
    max_batch_size=1024,
  )
  state = jax.jit(injected.init)(STATISTICS.mean)
  _, state = jax.jit(injected.update)(
    STATISTICS.mean, state, STATISTICS.mean, statistics=STATISTICS
  )
  expected = _debiased(GRADIENTS[:, COLUMNS])
  assert optax.tree.get(state, 'batch_size') == np.ceil(expected)

  def make(eta):
    return adaopt.adapt_batch_size(
      adaopt.of_tensors(adaopt.norm_test(eta), FILTER),
      init_batch_size=1,
      max_batch_size=1024,
    )

  injected = optax.inject_hyperparams(make)(eta=0.5)
  state = injected.init(STATISTICS.mean)
  _, state = jax.jit(injected.update)(
    STATISTICS.mean, state, statistics=STATISTICS
  )
  expected = oracles.norm_requirement(GRADIENTS[:, COLUMNS], 0.5)
  assert optax.tree.get(state, 'batch_size') == np.ceil(expected)


@pytest.mark.parametrize('filter', [FILTER, MASK], ids=['paths', 'mask'])
def test_it_can_be_masked(filter):
  optimizer = optax.masked(
    adaopt.adapt_batch_size(
      adaopt.of_tensors(adaopt.gradient_noise_scale(), filter),
      init_batch_size=1,
      max_batch_size=1024,
    ),
    MASK,
  )
  state = optimizer.init(STATISTICS.mean)
  _, state = optimizer.update(STATISTICS.mean, state, statistics=STATISTICS)
  expected = _debiased(GRADIENTS[:, COLUMNS])
  assert optax.tree.get(state, 'batch_size') == np.ceil(expected)


@pytest.mark.parametrize(
  'criterion',
  [
    adaopt.inner_product_test(0.5),
    adaopt.augmented_inner_product_test(0.5, nu=0.5),
    lambda s: s.variance_along_mean,
    jax.jit(lambda s: s.variance_along_mean),
    adaopt.of_tensors(adaopt.inner_product_test(0.5), FILTER),
  ],
  ids=['inner product', 'augmented', 'own', 'under jit', 'nested'],
)
@pytest.mark.parametrize('along', [None, jnp.float32(1.0)])
def test_the_variance_along_the_mean_is_that_of_all_tensors(criterion, along):
  statistics = STATISTICS._replace(variance_along_mean=along)
  with pytest.raises(ValueError, match=r'one number for all .* keep the inner'):
    adaopt.of_tensors(criterion, FILTER)(statistics)


NORM = adaopt.norm_test(0.5)


@pytest.mark.parametrize(
  ('filter', 'sentence'),
  [
    (
      lambda path: 'bias' in path,
      "no tensor; their paths are 'block/norm/scale', 'block/w', 'head'",
    ),
    (jax.tree.map(lambda x: False, MASK), 'selects no tensor; their paths'),
    (
      lambda path: None,
      "must return a bool, got None for 'block/norm/scale'; the paths are",
    ),
    (lambda path: 'norm', "must return a bool, got 'norm' for 'block/norm"),
    ({'head': True}, 'like the parameters, .*; pass a bool for each of .block'),
  ],
  ids=['none', 'empty mask', 'nothing', 'string', 'structure'],
)
def test_a_filter_that_does_not_fit_names_the_paths(filter, sentence):
  with pytest.raises(ValueError, match=sentence):
    adaopt.of_tensors(NORM, filter)(STATISTICS)
  stateful = adaopt.of_tensors(adaopt.gradient_noise_scale(), filter)
  with pytest.raises(ValueError, match=sentence):
    stateful.init(STATISTICS.mean)


@pytest.mark.parametrize('filter', ['head', {}, {'head': 1}, None])
def test_a_filter_is_a_predicate_or_a_mask(filter):
  with pytest.raises(
    ValueError, match="filter must be a function of a tensor's"
  ):
    adaopt.of_tensors(NORM, filter)


@pytest.mark.parametrize(
  ('make', 'sentence'),
  [
    (lambda: adaopt.of_tensors(0.5, FILTER), r'criterion must be .* got 0\.5'),
    (
      lambda: adaopt.of_tensors(adaopt.norm_test, FILTER),
      r'call it, as in norm_test\(',
    ),
    (
      lambda: adaopt.of_tensors(NORM, FILTER)(
        STATISTICS._replace(variance=jnp.float32(1.0))
      ),
      r'statistics\.variance of every tensor, like the mean',
    ),
    (
      lambda: adaopt.of_tensors(NORM, FILTER)(
        STATISTICS._replace(variance=None, coordinate_variance=None)
      ),
      r'norm_test needs statistics\.variance, which is None',
    ),
    (
      lambda: adaopt.of_tensors(NORM, FILTER)(
        adaopt.GradientStatistics(8, {'a/b': 1.0, 'a': {'b': 1.0}})
      ),
      "2 tensors of 1 paths, 'a/b'; rename",
    ),
  ],
  ids=['number', 'factory', 'scalar', 'missing', 'collision'],
)
def test_what_does_not_fit_meets_a_sentence(make, sentence):
  with pytest.raises(ValueError, match=sentence):
    make()
