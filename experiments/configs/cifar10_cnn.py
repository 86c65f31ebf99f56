"""Adaptive batch sizes for a CNN on CIFAR-10.

Source: Lau et al., AdAdaGrad (arXiv 2402.11215): its CNN of 541 094
parameters, here with the learning rate that it uses for MNIST.

  python -m adaopt.experiments.compare \
    --config=experiments/configs/cifar10_cnn.py --workdir=runs/cifar10_cnn
"""

import ml_collections

from adaopt.experiments.configs import common


def get_config() -> ml_collections.ConfigDict:
  """b_0 = 8, 3 M examples; θ = 0.3 and ν = 0.4 together imply η = 0.5."""
  config = common.get_config()
  config.dataset = 'cifar10'
  config.model = 'cifar_cnn'
  config.num_examples = 3_000_000
  config.eval_interval = 50_000
  config.eval_train_examples = 10_000
  config.max_micro_batch_size = 64
  base = {'optimizer': 'adagrad', 'learning_rate': 8e-3}
  sized = base | {'init_batch_size': 8, 'max_batch_size': 50_000}
  tests = {
    **common.norm_tests(0.25, 0.5, 1.0),
    **common.inner_product_tests(theta=0.3, nu=0.4),
    **common.coordinate_tests(1.0, 'mean', 'median'),
    **common.further_tests(1.0),
  }
  config.schemes = {
    **common.adaptive(sized, tests),
    **common.fixed(base, 32, 256, 2048),
    **common.growing(base, 8, 50_000, config.num_examples),
  }
  return config
