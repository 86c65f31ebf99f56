"""AdAdaGrad with the norm test: logistic regression on MNIST.

Source: Lau et al., AdAdaGrad (arXiv 2402.11215), the settings of its public
code. That code, seed 42, on two CPU cores: 147 steps, mean batch 40 890, train
loss 0.567, test accuracy 0.880, 156 s; batch sizes 2, 215, 2002, 3333, ….

  python -m experiments.main --config=experiments/configs/mnist_logistic.py \
    --workdir=runs/mnist_logistic --config.num_seeds=10
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """η = 0.1, b_0 = 2, 6 M examples."""
  config = ml_collections.ConfigDict()
  config.dataset = 'mnist'
  config.model = 'logistic'
  config.seed = 42
  config.num_seeds = 1
  config.num_examples = 6_000_000
  config.eval_interval = 100_000
  config.eval_train_examples = 60_000
  config.max_micro_batch_size = 1024
  config.schemes = {
    'adadagrad': {
      'optimizer': 'adagrad',
      'learning_rate': 8e-3,
      'test': 'norm',
      'eta': 0.1,
      'theta': 0.5,
      'nu': 1.0,
      'init_batch_size': 2,
      'max_batch_size': 60_000,
    },
  }
  return config
