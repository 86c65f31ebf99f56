"""Fixed batch sizes and schemes at an equal budget of examples.

The part behind the colon is a workload: digits, digits_shifted,
fashion_mnist_momentum, fashion_mnist_adam, a9a, mnist_cnn, shakespeare,
cifar10_cnn.

  python -m adaopt.experiments.frontier \
    --config=experiments/configs/frontier.py:fashion_mnist_momentum \
    --workdir=runs/frontier --data_dir=DIR

Learning rates and Seesaw follow an override of `num_examples`; `ramp` and
`stages` keep the sizes of the config's own budget.
"""

import math
from collections.abc import Iterator
from typing import Any

import ml_collections

from adaopt.experiments.configs import common

MOMENTUM = {'optimizer': 'momentum', 'momentum': 0.9}
ADAM = {'optimizer': 'adam', 'b1': 0.9, 'b2': 0.999}
ADAMW = {'optimizer': 'adamw', 'b1': 0.9, 'b2': 0.99, 'weight_decay': 0.01}

FOLLOWING = {'adam': 'following_adam', 'adamw': 'following_adamw'}

# Schemes start at the batch size `init` with the best rate of that fixed size.
WORKLOADS = {
  'digits': {
    'dataset': 'digits',
    'model': 'mlp',
    'validation_examples': 287,
    'epoch': 1_150,
    'num_examples': 60_000,
    'batch_sizes': (2, 8, 16, 32, 64, 128, 256, 1024),
    'init': 8,
    'optimizer': MOMENTUM,
    'exponent': 1.0,
    'guess': 0.05,
  },
  'digits_shifted': {
    'dataset': 'digits',
    'model': 'mlp',
    'augmentation': 'shift',
    'validation_examples': 287,
    'epoch': 1_150,
    'num_examples': 200_000,
    'batch_sizes': (16, 64, 128, 256, 512, 1024),
    'micro_batch_sizes': (64,),
    'init': 16,
    'optimizer': MOMENTUM,
    'exponent': 1.0,
    'guess': 0.05,
  },
  'fashion_mnist_momentum': {
    'dataset': 'fashion_mnist',
    'model': 'mlp',
    'validation_examples': 10_000,
    'epoch': 50_000,
    'num_examples': 480_000,
    'batch_sizes': (8, 32, 64, 128, 256, 512, 2048, 8192),
    'init': 32,
    'optimizer': MOMENTUM,
    'exponent': 1.0,
    'guess': 0.02,
  },
  'fashion_mnist_adam': {
    'dataset': 'fashion_mnist',
    'model': 'mlp',
    'validation_examples': 10_000,
    'epoch': 50_000,
    'num_examples': 480_000,
    'batch_sizes': (8, 32, 64, 128, 256, 512, 2048, 8192),
    'init': 32,
    'optimizer': ADAM,
    'exponent': 0.5,
    'guess': 0.001,
  },
  'a9a': {
    'dataset': 'a9a',
    'model': 'binary_logistic',
    'validation_examples': 6_512,
    'epoch': 26_049,
    'num_examples': 200_000,
    'batch_sizes': (4, 16, 64, 256, 1024, 4096),
    'init': 16,
    'optimizer': MOMENTUM,
    'exponent': 1.0,
    'guess': 0.02,
  },
  'mnist_cnn': {
    'dataset': 'mnist',
    'model': 'small_cnn',
    'validation_examples': 10_000,
    'epoch': 50_000,
    'num_examples': 60_000,
    'batch_sizes': (8, 16, 32, 64, 128, 512, 2048, 8192),
    'init': 16,
    'optimizer': MOMENTUM,
    'exponent': 1.0,
    'guess': 0.01,
  },
  'shakespeare': {
    'dataset': 'shakespeare',
    'model': 'tiny_transformer',
    'validation_examples': 778,
    'epoch': 7_003,
    'num_examples': 3_000,
    'batch_sizes': (4, 8, 16, 32, 64, 256),
    'micro_batch_sizes': (8,),
    'init': 8,
    'optimizer': ADAMW,
    'exponent': 0.5,
    'guess': 0.001,
  },
  'cifar10_cnn': {
    'dataset': 'cifar10',
    'model': 'small_cifar_cnn',
    'validation_examples': 10_000,
    'epoch': 40_000,
    'num_examples': 40_000,
    'batch_sizes': (8, 16, 32, 64, 128, 512),
    'init': 16,
    'optimizer': MOMENTUM,
    'exponent': 1.0,
    'guess': 0.01,
  },
}

TAKES = tuple(WORKLOADS)


DEVICE_BATCH = 32
"""m, the examples that a device takes at once."""

LATE = 0.8
"""The fraction of the budget after which the size switches."""

# Name → the test, its constant, the power of it that the requirement goes by,
# values of it, the policy, and the rule of the learning rate.
TESTS = {
  'adaptive': ('debiased', 'eta', -2, (0.7, 1.0, 1.5), 'gradual', 'linear'),
  'root': ('debiased', 'eta', -2, (1.0,), 'gradual', 'root'),
  'adascale': ('debiased', 'eta', -2, (0.7, 1.0), 'gradual', 'adascale'),
  'norm': ('norm', 'eta', -2, (1.0, 2.0), 'grow', 'power'),
  'inner_product': ('inner_product', 'theta', -2, (0.5, 1.0), 'grow', 'power'),
  'augmented': ('augmented', 'theta', -2, (0.5, 1.0), 'grow', 'power'),
  'noise_scale': ('debiased', 'eta', -2, (1.0, 2.0), 'follow', 'power'),
  'sign': ('sign_noise_scale', 'theta', -2, (0.6, 1.0), 'gradual', 'power'),
  'cabs': ('cabs', 'cabs_learning_rate', 1, (0.1, 1.0), 'follow', 'power'),
  'divebatch': ('diversity', 'delta', 1, (0.1, 1.0), 'grow', 'power'),
}


def _tests(
  epoch: int, rules: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
  """The tests by name, without dots, which would break overrides.

  Those of one kind are one program: with the constant at 1 and the rest of the
  requirement in the state.
  """
  return {
    f'{name}_{value:g}'.replace('.', 'p'): rules[rule]
    | {
      'family': test,
      constant: 1.0,
      'nu': 4.0,
      'epoch': epoch,
      'policy': policy,
      'held': {'requirement_scale': value**power},
    }
    for name, (test, constant, power, values, policy, rule) in TESTS.items()
    for value in values
  }


def cosine(num_examples: Any) -> dict[str, Any]:
  """From 1 to 0 over the budget, a number or a reference to it."""
  return {
    'init_value': 1.0,
    'peak_value': 1.0,
    'warmup_steps': 0,
    'decay_steps': num_examples,
  }


def fixed(batch_sizes: tuple[int, ...], budget: Any) -> dict[str, Any]:
  """The fixed batch sizes, which are one program."""
  return {
    f'fixed_{size}': {
      'unmoved': max(batch_sizes),
      'held': {'batch_size': size},
      'learning_rate': cosine(budget),
    }
    for size in batch_sizes
  }


def _schemes(
  init: int, largest: int, exponent: float, budget: Any, epoch: int
) -> dict[str, dict[str, Any]]:
  """Every scheme of the toolkit, from a first batch size to the largest."""
  base = {'learning_rate': cosine(budget)}
  rules = {
    'linear': {'learning_rate_exponent': 1.0},
    'root': {'learning_rate_exponent': 0.5},
    'power': {'learning_rate_exponent': exponent},
    'adascale': {'adascale': init},
  }
  sized = {'init_batch_size': init, 'max_batch_size': largest}
  return {
    **common.adaptive(base | sized, _tests(epoch, rules)),
    # P devices take s ⌈b / (P m)⌉ seconds a step, about s (½ + b / (P m)).
    **{
      f'goodput_{devices}': base
      | sized
      | rules['adascale']
      | {
        'test': 'goodput',
        'round': devices * DEVICE_BATCH,
        'policy': 'follow',
      }
      for devices in (8, 64)
    },
    **common.growing(base | rules['power'], init, largest, budget.get()),
    'late_switch': base
    | rules['power']
    | {
      'late_switch': (init, largest, LATE),
      'num_examples': budget,
    },
    'seesaw': {
      'learning_rate': 1.0,
      'seesaw': init,
      'halvings': int(math.log2(largest // init)),
      'num_examples': budget,
    },
  }


def _variants(
  found: dict[str, dict[str, Any]], optimizer: str
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Moments that a change of batch size moves; of Adam, what follows it.

  That is a β₂ whose half-life counts examples, and the root of AdaScale's gain.
  """
  follows = optimizer in FOLLOWING
  for name, scheme in found.items():
    if name.startswith('adaptive'):
      yield f'reset_{name}', scheme | {'moments': 'reset'}
      if follows:
        yield f'rescaled_{name}', scheme | {'moments': 'rescaled'}
        yield f'b2_{name}', scheme | {'optimizer': FOLLOWING[optimizer]}
    if name.startswith('adascale') and follows:
      root = name.replace('adascale', 'adamscale')
      yield root, scheme | {'adascale_exponent': 0.5}


def get_config(name: str = 'digits') -> ml_collections.ConfigDict:
  """A workload, its fixed batch sizes and its schemes."""
  if name not in WORKLOADS:
    raise ValueError(
      f'unknown workload {name!r}; choose from {", ".join(WORKLOADS)}.'
    )
  config = common.get_config()
  config.device_batch = DEVICE_BATCH
  config.micro_batch_sizes = (16, 64, 256)
  config.update(WORKLOADS[name])
  largest = min(config.batch_sizes[-1], 8192)
  # References, so that an override of the budget reaches the schedules.
  budget = config.get_ref('num_examples')
  config.fixed = fixed(config.batch_sizes, budget)
  found = _schemes(config.init, largest, config.exponent, budget, config.epoch)
  variants = dict(_variants(found, config.optimizer.optimizer))
  config.schemes = found | variants
  return config
