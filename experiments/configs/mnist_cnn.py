"""AdAdaGrad with the norm test: a small CNN on MNIST.

Source: Lau et al., AdAdaGrad (arXiv 2402.11215), the settings of its public
code; the budget is 1.2 M examples, a fifth of theirs.

  python -m experiments.main --config=experiments/configs/mnist_cnn.py \
    --workdir=runs/mnist_cnn
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """η = 0.1, b_0 = 8, 1.2 M examples; beside it fixed batches of 256."""
  config = ml_collections.ConfigDict()
  config.dataset = 'mnist'
  config.model = 'cnn'
  config.seed = 42
  config.num_seeds = 1
  config.num_examples = 1_200_000
  config.eval_interval = 60_000
  config.eval_train_examples = 10_000
  config.max_micro_batch_size = 256
  config.schemes = {
    'adadagrad': {
      'optimizer': 'adagrad',
      'learning_rate': 8e-3,
      'test': 'norm',
      'eta': 0.1,
      'theta': 0.5,
      'nu': 1.0,
      'init_batch_size': 8,
      'max_batch_size': 60_000,
    },
    'adagrad_256': {
      'optimizer': 'adagrad',
      'learning_rate': 8e-3,
      'batch_size': 256,
    },
  }
  return config
