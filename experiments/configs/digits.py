"""AdAdaGrad on scikit-learn's digits, against AdaGrad at two batch sizes."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """An MLP with 64 hidden units; the norm test with η = 1."""
  config = ml_collections.ConfigDict()
  config.dataset = 'digits'
  config.model = 'mlp'
  config.seed = 0
  config.num_seeds = 1
  config.num_examples = 100_000
  config.eval_interval = 2_000
  config.eval_train_examples = 1437
  config.max_micro_batch_size = 256
  test = {
    'test': 'norm',
    'eta': 1.0,
    'theta': 0.5,
    'nu': 1.0,
    'init_batch_size': 8,
    'max_batch_size': 1437,
  }
  config.schemes = {
    'adadagrad': {'optimizer': 'adagrad', 'learning_rate': 0.05, **test},
    'adadagrad_norm': {
      'optimizer': 'adagrad_norm',
      'learning_rate': 2.0,
      **test,
    },
    'adagrad_8': {
      'optimizer': 'adagrad',
      'learning_rate': 0.05,
      'batch_size': 8,
    },
    'adagrad_256': {
      'optimizer': 'adagrad',
      'learning_rate': 0.05,
      'batch_size': 256,
    },
  }
  return config
