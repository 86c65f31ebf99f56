"""Normalized LR+GD on scikit-learn's digits, against SGD and AdaGrad.

python -m adaopt.experiments.compare \
  --config=experiments/configs/digits_normalized.py \
  --workdir=runs/digits_normalized
"""

import ml_collections

from adaopt.experiments.configs import digits


def get_config() -> ml_collections.ConfigDict:
  """The MLP and norm test of digits; learning rates decay over the examples."""
  config = digits.get_config()
  schedule = {
    'init_value': 0.0,
    'warmup_steps': 2_000,
    'decay_steps': config.num_examples,
    'end_value': 0.0,
  }
  optimizers = {
    'normalized': {
      'optimizer': 'normalized_lr_gd',
      'learning_rate': schedule | {'peak_value': 0.1},
    },
    'sgd': {
      'optimizer': 'sgd',
      'learning_rate': schedule | {'peak_value': 0.5},
    },
    'adagrad': {'optimizer': 'adagrad', 'learning_rate': 0.05},
  }
  config.schemes = {
    f'{name}_{kind}': optimizer | sized
    for name, optimizer in optimizers.items()
    for kind, sized in {
      'adaptive': digits.NORM_TEST,
      '64': {'batch_size': 64},
    }.items()
  }
  return config
