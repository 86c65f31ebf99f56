"""If these fail, examples share random numbers, or what is masked counts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import adaopt
from adaopt._common import calls

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
PARAMS = np.float32([1.0, -0.5, 2.0])
KEY = jax.random.key(5)
ESTIMATES = {
  'statistics': adaopt.value_and_statistics,
  'norms': adaopt.per_example.squared_norms,
  'squares': adaopt.per_example.second_moment,
}


def noisy(params, batch, key):
  """A loss that draws for each of its examples."""
  noise = jax.random.normal(key, batch.shape)
  return jnp.mean(((batch + noise) @ params) ** 2)


def rows_of(keys, size=1):
  """The gradient of every sample, with the key of its first example."""
  return np.stack(
    [
      jax.grad(noisy)(PARAMS, X[i : i + size], keys[i])
      for i in range(0, len(X), size)
    ]
  )


def close(actual, expected, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def folded(key):
  return jnp.stack([jax.random.fold_in(key, i) for i in range(len(X))])


@pytest.mark.slow
@pytest.mark.parametrize('size', [1, 2, 3])
@pytest.mark.parametrize('each', [False, True])
def test_every_sample_draws_by_its_own_key(each, size):
  keys = jax.random.split(KEY, len(X)) if each else folded(KEY)
  run = jax.jit(adaopt.value_and_statistics(noisy, group_size=size))
  value, found = run(PARAMS, X, key=keys if each else KEY)
  g = rows_of(keys, size)
  losses = [noisy(PARAMS, X[i : i + size], keys[i]) for i in range(0, 6, size)]
  close(value, np.mean(losses))
  close(found.mean, oracles.mean(g))
  close(found.variance, size * oracles.total_variance(g), 1e-4)


@pytest.mark.slow
def test_a_reduction_draws_by_the_same_keys():
  g = rows_of(folded(KEY))
  _, mean, norms = adaopt.per_example.squared_norms(noisy)(PARAMS, X, key=KEY)
  close(mean, oracles.mean(g))
  close(norms, np.sum(g**2, 1))
  products = adaopt.per_example.inner_products(noisy)
  close(products(PARAMS, X, PARAMS, key=KEY), g @ PARAMS)
  squares = adaopt.per_example.second_moment(noisy)(PARAMS, X, key=KEY)
  close(squares, np.mean(g**2, 0))


@pytest.mark.slow
def test_positions_of_the_stream_give_keys():
  keys = adaopt.example_keys(3, jnp.arange(6))
  whole = adaopt.value_and_statistics(noisy)
  _, found = whole(PARAMS, X, key=keys)
  optimizer = optax.chain(adaopt.schedule_batch_size(6), optax.sgd(1.0))
  draw = lambda dataset, seed, positions: dataset[positions]
  for size in (1, 4, 8):
    step = adaopt.train_step(noisy, optimizer, micro_batch_size=size, draw=draw)
    state = adaopt.init_train_state(PARAMS, optimizer, seed=3)
    state, _ = step(state, jnp.asarray(X))
    close(PARAMS - state.params, found.mean)


@pytest.mark.parametrize('name', ESTIMATES)
@pytest.mark.parametrize(
  ('loss', 'args', 'keywords', 'sentence'),
  [
    (noisy, (), {}, 'takes a key, and none was passed by its name'),
    (noisy, (KEY,), {}, 'takes a key, and none was passed by its name'),
    (noisy, (), {'key': jax.random.PRNGKey(0)}, 'got uint32.*wrap_key_data'),
    (noisy, (), {'key': 3}, 'as jax.random.key makes it.* got int'),
    (noisy, (), {'key': jax.random.split(KEY, 5)}, r'each of 6 .* got \[5\]'),
    (noisy, (), {'key': jax.random.split(KEY, 6)[None]}, r'got \[1, 6\]'),
    (
      lambda params, x: jnp.mean(x @ params),
      (),
      {'key': KEY},
      'has no parameter key',
    ),
    (
      lambda params, x, other: jnp.mean(x @ params),
      ({'a': KEY},),
      {},
      'an argument of loss_fn is a random key.* name that parameter key',
    ),
    (
      lambda params, x, model_state: (jnp.mean(x @ params), model_state),
      (),
      {},
      'takes a model_state, and none was passed',
    ),
    (
      lambda params, x: jnp.mean(x @ params),
      (),
      {'model_state': 1.0},
      'has no parameter model_state',
    ),
    (
      lambda params, x, model_state: (jnp.mean(x @ params), model_state),
      (),
      {'model_state': {'rng': KEY}},
      r"model_state\['rng'\] is a random key",
    ),
  ],
)
def test_what_does_not_fit_meets_a_sentence(
  name, loss, args, keywords, sentence
):
  with pytest.raises(ValueError, match=sentence):
    ESTIMATES[name](loss)(PARAMS, X, *args, **keywords)


def test_a_keyword_that_is_none_is_told_by_python():
  with pytest.raises(TypeError, match='unexpected keyword argument'):
    adaopt.per_example.squared_norms(noisy)(PARAMS, X, keys=KEY)


def test_without_a_key_and_a_mask_all_samples_count():
  batch = np.float32([1.0, 2.0])
  named = calls.prepare(
    lambda params, batch: jnp.mean(params * batch),
    jnp.float32(1),
    batch,
    key=None,
    model_state=None,
    mask=None,
    group_size=1,
    has_aux=False,
  )
  assert named.samples.key is None
  assert named.mask.tolist() == [True, True]


# Masks.


def plain(params, batch):
  return jnp.mean((batch @ params - 1) ** 2)


def weighted(params, batch):
  weight = 1 + jnp.abs(batch[:, 0])
  errors = (batch @ params - 1) ** 2
  return adaopt.WeightedLoss(jnp.sum(weight * errors), jnp.sum(weight))


MASKS = [
  [True] * 6,
  [True, True, True, True, False, False],
  [False, False, True, True, True, True],
  [True, False, True, False, False, True],
]


def assert_same(found, expected):
  jax.tree.map(lambda x, y: close(x, y, 1e-4), found, expected)


@pytest.mark.slow
@pytest.mark.parametrize('mask', MASKS)
@pytest.mark.parametrize('loss', [plain, weighted])
@pytest.mark.parametrize('only', [('variance', 'variance_along_mean'), ()])
def test_a_mask_leaves_the_examples_that_count(loss, mask, only):
  run = jax.jit(adaopt.value_and_statistics(loss, only=only))
  mask = np.array(mask)
  assert_same(run(PARAMS, X, mask=mask), run(PARAMS, X[mask]))
  # What does not count is not seen, whatever finite numbers it holds.
  other = np.where(mask[:, None], X, 7)
  jax.tree.map(
    np.testing.assert_array_equal,
    run(PARAMS, other, mask=mask),
    run(PARAMS, X, mask=mask),
  )


@pytest.mark.slow
@pytest.mark.parametrize('loss', [plain, weighted])
def test_a_group_counts_where_all_of_it_does(loss):
  run = adaopt.value_and_statistics(loss, group_size=2)
  mask = np.array([True, True, True, False, True, True])
  kept = np.array([0, 1, 4, 5])
  assert_same(run(PARAMS, X, mask=mask), run(PARAMS, X[kept]))


@pytest.mark.slow
def test_a_mask_keeps_the_keys_of_the_examples():
  keys = jax.random.split(KEY, 6)
  mask = np.array(MASKS[3])
  run = adaopt.value_and_statistics(noisy)
  found = run(PARAMS, X, key=keys, mask=mask)
  assert_same(found, run(PARAMS, X[mask], key=keys[mask]))


@pytest.mark.slow
def test_a_padded_batch_is_the_batch():
  batch, mask = adaopt.pad(X[:5], 8)
  run = adaopt.value_and_statistics(plain)
  assert len(batch) == 8
  assert_same(run(PARAMS, batch, mask=mask), run(PARAMS, X[:5]))


def test_one_example_that_counts_has_no_variance_and_none_no_mean():
  run = adaopt.value_and_statistics(plain)
  value, found = run(PARAMS, X, mask=np.arange(6) == 2)
  close(value, plain(PARAMS, X[2:3]))
  close(found.mean, jax.grad(plain)(PARAMS, X[2:3]))
  assert np.isnan(found.variance)
  value, found = run(PARAMS, X, mask=np.zeros(6, bool))
  assert np.isnan(value)
  assert np.all(np.isnan(found.mean))
  assert found.batch_size == 0


@pytest.mark.parametrize(
  ('mask', 'got'),
  [
    (np.ones(5, bool), r'bool\[5\]'),
    (np.ones([6, 1], bool), r'bool\[6, 1\]'),
    (np.ones(6), r'float\d\d\[6\]'),
    (True, r'bool\[\]'),
  ],
)
def test_what_is_no_mask_meets_a_sentence(mask, got):
  sentence = f'mask must be bools, one for each of 6 examples, got {got}'
  with pytest.raises(ValueError, match=sentence):
    adaopt.value_and_statistics(plain)(PARAMS, X, mask=mask)
