"""The check that examples are independent."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn

import adaopt

IMAGES = jax.random.normal(jax.random.key(0), [6, 8, 8, 3])


class Network(nn.Module):
  norm: nn.Module

  @nn.compact
  def __call__(self, x):
    return nn.Dense(2)(nn.relu(self.norm(nn.Dense(4)(x))))


def loss_of(norm, **kwargs):
  model = Network(norm)
  variables = model.init(jax.random.key(1), IMAGES)
  params = variables.pop('params')

  def loss_fn(params, batch):
    outputs, _ = model.apply(
      {'params': params, **variables}, batch, mutable=['batch_stats'], **kwargs
    )
    return jnp.mean(outputs**2)

  return loss_fn, params


@pytest.mark.parametrize(
  'norm', [nn.LayerNorm(), nn.GroupNorm(2), nn.BatchNorm(True)]
)
def test_independent_examples_pass(norm):
  adaopt.check_independent_examples(*loss_of(norm), IMAGES)


def test_batch_norm_in_training_mode_is_told_of_groups():
  loss_fn, params = loss_of(nn.BatchNorm(use_running_average=False))
  with pytest.raises(ValueError, match=r'BatchNorm.*group_size'):
    adaopt.check_independent_examples(loss_fn, params, IMAGES)


def test_a_sum_over_examples_is_told():
  with pytest.raises(ValueError, match='a sum in place of the mean'):
    adaopt.check_independent_examples(
      lambda w, x: jnp.sum(w * x), jnp.array(1.0), jnp.arange(3.0)
    )


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_loss_that_is_not_finite_cannot_tell(value):
  x = jnp.arange(3.0).at[1].set(value)
  with pytest.raises(ValueError, match=f'is {value}, which cannot tell'):
    adaopt.check_independent_examples(
      lambda w, x: jnp.mean(w * x), jnp.array(1.0), x
    )


@pytest.mark.parametrize(('w', 'mean'), [(0, 'nan'), (1, 'inf')])
def test_single_losses_that_are_not_finite_tell_of_coupling(w, mean):
  """A single example has no spread to be divided by: w / 0."""
  loss_fn = lambda w, x: w / jnp.std(x)
  with pytest.raises(ValueError, match=f'losses is {mean}; .* coupled'):
    adaopt.check_independent_examples(loss_fn, jnp.float32(w), jnp.arange(4.0))


def dropout(w, x, key):
  keep = jax.random.bernoulli(key, 0.5, x.shape)
  return jnp.mean((x * keep) @ w)


def test_one_key_for_all_examples_couples_them():
  x = jnp.exp(jax.random.normal(jax.random.key(0), [8, 3]))
  with pytest.raises(ValueError, match='random key for the whole batch'):
    adaopt.check_independent_examples(
      dropout, jnp.ones(3), x, jax.random.key(2)
    )


def test_a_key_of_its_own_leaves_an_example_independent():
  x = jax.random.normal(jax.random.key(0), [8, 3])
  keys = jax.random.split(jax.random.key(1), 8)
  loss = lambda w, batch: jnp.mean(
    jax.vmap(lambda x, key: dropout(w, x, key))(*batch)
  )
  adaopt.check_independent_examples(loss, jnp.ones(3), (x, keys))


def test_half_precision_and_aux_pass():
  model = nn.Dense(3, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
  x = jax.random.normal(jax.random.key(0), [9, 40], jnp.bfloat16)
  params = model.init(jax.random.key(1), x)

  def loss_fn(params, batch):
    logits = model.apply(params, batch)
    labels = jnp.zeros(len(batch), int)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), {'examples': len(batch)}

  adaopt.check_independent_examples(loss_fn, params, x, has_aux=True)
