"""AdAdaGrad on scikit-learn's digits, against AdaGrad at two batch sizes.

python -m adaopt.experiments.compare --config=experiments/configs/digits.py \
  --workdir=runs/digits
"""

import ml_collections

from adaopt.experiments.configs import common

NORM_TEST = {
  'test': 'norm',
  'eta': 1.0,
  'init_batch_size': 8,
  'max_batch_size': 1437,
}


def get_config() -> ml_collections.ConfigDict:
  """An MLP with 64 hidden units; the norm test with η = 1."""
  config = common.get_config()
  config.dataset = 'digits'
  config.model = 'mlp'
  config.num_examples = 100_000
  config.eval_interval = 2_000
  config.eval_train_examples = 1437
  config.max_micro_batch_size = 256
  config.seeds_together = True
  adagrad = {'optimizer': 'adagrad', 'learning_rate': 0.05}
  norm = {'optimizer': 'adagrad_norm', 'learning_rate': 2.0}
  config.schemes = {
    'adadagrad': adagrad | NORM_TEST,
    'adadagrad_norm': norm | NORM_TEST,
    'adagrad_8': adagrad | {'batch_size': 8},
    'adagrad_256': adagrad | {'batch_size': 256},
  }
  return config
