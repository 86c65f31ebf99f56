"""Adaptive batch sizes for logistic regression on a LIBSVM set.

The tests and baselines of AdAdaGrad (arXiv 2402.11215) on a9a, or, with
`--config=experiments/configs/libsvm_logistic.py:w8a`, on w8a, ijcnn1, phishing
or mushrooms.

  python -m adaopt.experiments.compare \
    --config=experiments/configs/libsvm_logistic.py --workdir=runs/a9a
"""

import ml_collections

from adaopt.experiments.configs import common

TAKES = ('a9a', 'w8a', 'ijcnn1', 'phishing', 'mushrooms')


def get_config(dataset: str = 'a9a') -> ml_collections.ConfigDict:
  """AdaGrad, b_0 = 2, 1 M examples; θ = 0.3 and ν = 0.4 imply η = 0.5."""
  config = common.get_config()
  config.dataset = dataset
  config.model = 'binary_logistic'
  config.seeds_together = True
  config.num_examples = 1_000_000
  config.eval_interval = 20_000
  config.eval_train_examples = 50_000
  config.max_micro_batch_size = 1024
  base = {'optimizer': 'adagrad', 'learning_rate': 0.1}
  sized = base | {'init_batch_size': 2, 'max_batch_size': 8192}
  tests = {
    **common.norm_tests(0.25, 0.5, 1.0),
    **common.inner_product_tests(theta=0.3, nu=0.4),
    # No median: most features of a small batch are 0 and require no examples.
    **common.coordinate_tests(1.0, 'max', 'mean'),
    **common.further_tests(0.5),
  }
  config.schemes = {
    **common.adaptive(sized, tests),
    **common.fixed(base, 64, 1024, 8192),
    **common.growing(base, 2, 8192, config.num_examples),
  }
  return config
