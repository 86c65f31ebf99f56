"""Adaptive batch sizes for ResNet-18 on CIFAR-10.

Source: Lau et al., AdAdaGrad (arXiv 2402.11215), the settings of its public
code for four devices: AdaGrad, η = 0.5, b_0 = 8, 10 M examples, a learning rate
that rises to 5e-2 over 1 M examples and falls by a cosine to 5e-3 at 9 M.

  python -m adaopt.experiments.compare \
    --config=experiments/configs/cifar10_resnet18.py \
    --workdir=runs/cifar10_resnet18

`--config=experiments/configs/cifar10_resnet18.py:batchnorm` uses BatchNorm
without running statistics, as that code does in training. It normalises over
groups of 32 examples, whose gradients are the samples of the test.
"""

import ml_collections

from adaopt.experiments.configs import common

MODELS = {
  'groupnorm': {'model': 'resnet18', 'group_size': 1, 'init_batch_size': 8},
  'batchnorm': {
    'model': 'resnet18_batchnorm',
    'group_size': 32,
    'init_batch_size': 64,
  },
}

TAKES = tuple(MODELS)


def get_config(norm: str = 'groupnorm') -> ml_collections.ConfigDict:
  """θ = 0.3 and ν = 0.4 together imply the norm test with η = 0.5."""
  if norm not in MODELS:
    raise ValueError(
      f'unknown normalisation {norm!r}; choose from {", ".join(MODELS)}.'
    )
  chosen = dict(MODELS[norm])
  first = chosen.pop('init_batch_size')
  config = common.get_config()
  config.update(chosen)
  config.dataset = 'cifar10'
  config.augmentation = 'crop_and_flip'
  config.num_examples = 10_000_000
  config.eval_interval = 100_000
  config.eval_train_examples = 10_000
  config.max_micro_batch_size = 256
  base = {
    'optimizer': 'adagrad',
    'learning_rate': {
      'init_value': 0.0,
      'peak_value': 5e-2,
      'warmup_steps': 1_000_000,
      'decay_steps': 9_000_000,
      'end_value': 5e-3,
    },
  }
  sized = base | {'init_batch_size': first, 'max_batch_size': 50_000}
  tests = {
    **common.norm_tests(0.25, 0.5, 1.0),
    **common.inner_product_tests(theta=0.3, nu=0.4),
    **common.coordinate_tests(1.0, 'mean', 'median'),
    **common.further_tests(1.0),
  }
  config.schemes = {
    **common.adaptive(sized, tests),
    **common.fixed(base, 128, 1024, 8192),
    **common.growing(base, first, 50_000, config.num_examples),
  }
  return config
