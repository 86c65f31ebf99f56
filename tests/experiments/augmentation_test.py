"""An image whose change is not reproducible, or not a crop and flip."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import adaopt
from adaopt.experiments import augmentation

draw = jax.jit(augmentation.crop_and_flip)

# No two pixels of an image are alike, none is 0, and an image is known by its
# last channel.
N, H, W = 7, 12, 16
DATASET = {
  'input': jnp.stack(
    [
      jnp.broadcast_to(jnp.arange(1, H * W + 1).reshape(H, W), (N, H, W)),
      jnp.broadcast_to(jnp.arange(1, N + 1)[:, None, None], (N, H, W)),
    ],
    -1,
  ).astype(jnp.uint8),
  'label': jnp.arange(N),
}


def views(image):
  """All 2·9·9 crops of an image, as {content: (mirrored, y, x)}."""
  padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
  found = {}
  for y, x in itertools.product(range(9), repeat=2):
    crop = padded[y : y + H, x : x + W]
    found |= {crop.tobytes(): (0, y, x), crop[:, ::-1].tobytes(): (1, y, x)}
  assert len(found) == 162
  return found


VIEWS = [views(image) for image in np.asarray(DATASET['input'])]


def changes(seed, positions):
  """How each image was changed: (mirrored, y, x) for each, looked up."""
  batch = jax.device_get(draw(DATASET, seed, positions))
  pairs = zip(batch['input'], batch['label'], strict=True)
  return np.array([VIEWS[label][image.tobytes()] for image, label in pairs])


def test_every_image_is_a_view_of_the_example_drawn():
  positions = jnp.arange(4 * N)
  assert changes(0, positions).shape == (28, 3)
  batch, plain = draw(DATASET, 0, positions), adaopt.draw(DATASET, 0, positions)
  np.testing.assert_array_equal(batch['label'], plain['label'])
  assert batch['input'].dtype == jnp.uint8


def test_crops_and_flips_are_uniform_and_independent():
  n = 3240  # twenty of each of the 162 views
  mirrored, y, x = changes(3, jnp.arange(n)).T
  counts = np.bincount(81 * mirrored + 9 * y + x, minlength=162)
  # The seed is fixed; a fair draw would fail once in a million.
  assert scipy.stats.chisquare(counts).pvalue > 1e-6
  assert scipy.stats.binomtest(int(mirrored.sum()), n).pvalue > 1e-6


@pytest.mark.parametrize('pieces', [[1] * 12, [5, 7]])
def test_a_batch_is_the_same_however_it_is_split(pieces):
  positions = 2**31 - 100 + np.arange(12, dtype=np.int32)
  whole = draw(DATASET, 5, positions)
  parts = [
    draw(DATASET, 5, part)
    for part in np.split(positions, np.cumsum(pieces)[:-1])
  ]
  jax.tree.map(
    lambda x, *xs: np.testing.assert_array_equal(x, np.concatenate(xs)),
    whole,
    *parts,
  )


@pytest.mark.parametrize(
  'other',
  [(0, 14), (1, 0), (-1, 0), (0, 2**31 - 700)],
  ids=['epoch', 'seed', 'negative seed', 'far'],
)
def test_another_epoch_or_seed_changes_images_otherwise(other):
  n = 648
  seed, first = other
  same = np.all(
    changes(0, jnp.arange(n)) == changes(seed, first + jnp.arange(n)), axis=1
  )
  # Two independent changes agree in one of 162 places.
  assert same.sum() <= scipy.stats.poisson.isf(1e-6, n / 162)


def test_a_run_is_a_function_of_its_seed_whatever_the_micro_batch():
  optimizer = optax.chain(adaopt.schedule_batch_size(12), adaopt.adagrad(0.1))

  def loss_fn(params, batch):
    return jnp.mean((batch['input'] / 255 - params) ** 2)

  def train(step, seed):
    params = jnp.zeros((1, H, W, 2))
    state = adaopt.init_train_state(params, optimizer, seed=seed)
    for _ in range(3):
      state, _ = step(state, DATASET)
    return state.params

  whole, split = (
    adaopt.train_step(
      loss_fn,
      optimizer,
      micro_batch_size=size,
      draw=augmentation.crop_and_flip,
    )
    for size in (12, 5)
  )
  expected = train(whole, 0)
  # Sums of twelve in another order.
  np.testing.assert_allclose(train(split, 0), expected, rtol=1e-5, atol=1e-6)
  assert not np.allclose(train(whole, 1), expected, atol=1e-2)


def test_one_program_serves_all_seeds_and_positions():
  traced = []

  @jax.jit
  def ask(seed, positions):
    traced.append(positions.shape)
    return augmentation.crop_and_flip(DATASET, seed, positions)

  for i in range(3):
    ask(jnp.int32(i), jnp.arange(6) + i)
  assert traced == [(6,)]
