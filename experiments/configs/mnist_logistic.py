"""Adaptive batch sizes for logistic regression on MNIST.

Source: Lau et al., AdAdaGrad (arXiv 2402.11215), the settings of its published
code (github.com/timlautk/AdAdaGrad): η = 0.1, b_0 = 2, 6 M examples. The
functions of that code in a bare PyTorch loop, run elsewhere, not by a script of
this repository, seed 42, on two CPU cores: 147 steps, mean batch 40 890, train
loss 0.567, test accuracy 0.880, 156 s; batch sizes 2, 215, 2002, 3333, ….
Expected of `norm_0p1`, 10 seeds: 140 ± 3 steps, mean batch 42 936 ± 887, train
loss 0.547 ± 0.006, test accuracy 0.884 ± 0.003, 9 s each.

  python -m adaopt.experiments.compare \
    --config=experiments/configs/mnist_logistic.py \
    --workdir=runs/mnist_logistic --seeds=10 --schemes=norm_0p1
"""

import ml_collections

from adaopt.experiments.configs import common


def get_config() -> ml_collections.ConfigDict:
  """θ = 0.06 and ν = 0.08 together imply the norm test with η = 0.1."""
  config = common.get_config()
  config.dataset = 'mnist'
  config.model = 'logistic'
  config.seed = 42
  config.seeds_together = True
  config.num_examples = 6_000_000
  config.eval_interval = 100_000
  config.eval_train_examples = 60_000
  config.max_micro_batch_size = 1024
  base = {'optimizer': 'adagrad', 'learning_rate': 8e-3}
  sized = base | {'init_batch_size': 2, 'max_batch_size': 60_000}
  tests = {
    **common.norm_tests(0.1, 0.2, 0.5),
    **common.inner_product_tests(theta=0.06, nu=0.08),
    **common.coordinate_tests(0.5, 'max', 'mean', 'median'),
    **common.further_tests(0.5),
  }
  config.schemes = {
    **common.adaptive(sized, tests),
    **common.fixed(base, 256, 2048, 16_384),
    **common.growing(base, 2, 60_000, config.num_examples),
  }
  return config
