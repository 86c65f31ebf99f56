"""If these fail, Muon trains with batches of a size that no noise asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_digits

import adaopt
from adaopt._common import matrices
from adaopt.criteria import spectral_noise_scale

NAN = float('nan')


def make_statistics(gradients):
  """Those of per-example gradients, {name: [b, ...]}."""
  rows = {k: g.reshape(len(g), -1) for k, g in gradients.items()}
  ones = np.ones(len(next(iter(rows.values()))))
  wrap = lambda tree: jax.tree.map(jnp.float32, tree)
  return adaopt.GradientStatistics(
    jnp.int32(len(ones)),
    wrap({k: np.mean(g, 0) for k, g in gradients.items()}),
    coordinate_variance=wrap(
      {
        k: oracles.coordinate_variances(rows[k]).reshape(g.shape[1:])
        for k, g in gradients.items()
      }
    ),
    matrix_variance={
      k: jnp.float32(oracles.ratio_matrix_variances(rows[k], ones, g[0])[0])
      if g.ndim == 3
      else None
      for k, g in gradients.items()
    },
  )


def norms(gradients):
  """Σ_l n_l and Σ_l s_l, from singular values alone."""
  noise = signal = 0
  for g in gradients.values():
    mean = np.mean(g, 0)
    if g.ndim == 3:
      wide = [d if d.shape[0] <= d.shape[1] else d.T for d in g - mean]
      # C = D Dᴴ / (b − 1) for D = [G_1 − Ḡ, …, G_b − Ḡ].
      side_by_side = np.concatenate(wide, 1)
      noise += np.linalg.norm(side_by_side, 'nuc') / np.sqrt(len(g) - 1)
      signal += np.linalg.norm(mean, 'nuc')
    else:
      noise += np.sum(np.std(g, 0, ddof=1))
      signal += np.sum(np.abs(mean))
  return noise, signal


def required(criterion, statistics):
  return criterion.update(statistics, criterion.init(statistics.mean))[0]


def draw(seed, count, **shapes):
  rng = np.random.default_rng(seed)
  return {k: rng.normal(0.3, 1, (count, *shape)) for k, shape in shapes.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
  'shapes',
  [
    dict(w=(3, 5)),
    dict(w=(6, 4), b=(4,), s=()),
    dict(w=(4, 4), k=(2, 3, 2), v=(1, 3)),
  ],
  ids=['wide', 'tall, and vectors', 'square, and a kernel'],
)
def test_it_is_the_ratio_of_dual_norms(shapes):
  gradients = draw(0, 9, **shapes)
  noise, signal = norms(gradients)
  # A root of an eigenvalue of 1e-7 is 3e-4.
  np.testing.assert_allclose(
    required(spectral_noise_scale(0.6), make_statistics(gradients)),
    (noise / (0.6 * signal)) ** 2,
    rtol=1e-3,
  )


def test_noise_and_signal_are_averaged_apart():
  history = [draw(seed, 4, w=(2, 3), b=(2,)) for seed in range(3)]
  criterion = spectral_noise_scale(0.5, decay=0.8)
  state, averages = criterion.init(None), np.zeros(2)
  for gradients in history:
    found, state = criterion.update(make_statistics(gradients), state)
    averages = 0.8 * averages + 0.2 * np.square(norms(gradients))
    noise, signal = averages
    np.testing.assert_allclose(found, 4 * noise / signal, 1e-3)


MATRICES = hnp.arrays(
  np.float32,
  st.tuples(st.integers(2, 5), st.integers(1, 5), st.integers(1, 5)),
  elements=st.floats(-4, 4, width=16),
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(MATRICES)
def test_it_bounds_the_noise_and_knows_no_basis(g):
  """E ‖N‖_* ≤ tr C^(1/2), and both are the same in any orthonormal basis."""
  gradients = {'w': g.astype(float)}
  statistics = make_statistics(gradients)
  deviations = gradients['w'] - np.mean(gradients['w'], 0)
  spread = [np.linalg.norm(d, 'nuc') for d in deviations]
  bound = np.sqrt(len(g) - 1) * float(
    matrices.trace_of_root(statistics.matrix_variance['w'])
  )
  scale = np.max(np.abs(g)) + 1e-30
  # Up to five roots of what rounds at 1e-7 of 16 · 25 · 5.
  assert np.sum(spread) / np.sqrt(len(g)) <= bound + 0.1 * scale
  turned = {'w': np.stack([oracle_rotation(m) for m in gradients['w']])}
  np.testing.assert_allclose(norms(turned), norms(gradients), 1e-9, 1e-9)


def oracle_rotation(matrix):
  """The matrix in another basis of rows."""
  rows = len(matrix)
  q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(rows, rows)))
  return q @ matrix


def test_without_noise_or_signal_it_has_a_meaning():
  zeros, ones = np.zeros([4, 2, 3]), np.ones([4, 2, 3])
  signs = np.array([1, -1, 1, -1]).reshape(4, 1, 1) * ones
  test = spectral_noise_scale(0.5)
  of = lambda g: float(required(test, make_statistics({'w': g})))
  assert np.isnan(of(zeros))  # no evidence
  assert of(signs) == np.inf
  assert of(ones) == 0
  assert np.isnan(of(ones * NAN))


def test_no_eigenvalues_are_taken_where_no_noise_was_measured():
  statistics = make_statistics(draw(0, 4, w=(3, 4)))
  missing = jax.tree.map(lambda c: jnp.full_like(c, NAN), statistics)
  test = spectral_noise_scale(0.5)
  step = jax.make_jaxpr(lambda s: required(test, s))(missing)
  outside = [equation.primitive.name for equation in step.jaxpr.eqns]
  assert 'cond' in outside
  assert 'eigh' not in outside
  assert np.isnan(required(test, missing._replace(mean=statistics.mean)))


def test_of_tensors_leaves_some_out():
  gradients = draw(0, 6, head=(3, 4), body=(4, 2), bias=(2,))
  test = adaopt.of_tensors(spectral_noise_scale(0.5), lambda p: p != 'head')
  gradients_left = {k: g for k, g in gradients.items() if k != 'head'}
  noise, signal = norms(gradients_left)
  np.testing.assert_allclose(
    required(test, make_statistics(gradients)), 4 * (noise / signal) ** 2, 1e-3
  )


def test_it_works_under_vmap_and_jit():
  all_statistics = [make_statistics(draw(i, 4, w=(3, 2))) for i in range(3)]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *all_statistics)
  one = lambda s: required(spectral_noise_scale(0.5), s)
  np.testing.assert_allclose(
    jax.jit(jax.vmap(one))(stacked), [one(s) for s in all_statistics], 1e-5
  )


@pytest.mark.slow
def test_muon_trains_on_digits_in_one_program():
  images, labels = load_digits(return_X_y=True)
  dataset = {'image': np.float32(images / 16), 'label': labels}
  model = nn.Dense(10)

  def loss_fn(params, batch):
    logits = model.apply(params, batch['image'])
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['label']
    )
    return jnp.mean(losses)

  optimizer = optax.chain(
    adaopt.adapt_batch_size(
      spectral_noise_scale(0.6),
      init_batch_size=8,
      max_batch_size=256,
      test_interval=4,
    ),
    optax.contrib.muon(0.1),
  )
  params = model.init(jax.random.key(0), dataset['image'][:1])
  steps = adaopt.fit(
    loss_fn, optimizer, params, dataset, num_examples=6000, seed=0
  )
  history = [metrics for _, metrics in steps]
  sizes = [int(metrics.batch_size) for metrics in history]
  assert sizes[0] == 8
  assert sizes[-1] > 16
  assert sizes == sorted(sizes)
  # From about log 10.
  assert np.mean([float(m.loss) for m in history[-5:]]) < 1.0
  tested = [np.isfinite(float(m.variance)) for m in history]
  due = [i % 4 == 0 for i in range(len(history))]
  assert tested == due


def test_of_a_matrix_of_rank_1_the_nuclear_norm_is_as_inexact_as_told():
  rng = np.random.default_rng(0)
  matrix = np.float32(rng.normal(size=(512, 1)) * rng.normal(size=512))
  exact = np.linalg.norm(matrix.astype(float), 'nuc')
  square = matrices.product(jnp.asarray(matrix), jnp.asarray(matrix))
  found = float(matrices.trace_of_root(square))
  assert 1 < found / exact < 1.04
