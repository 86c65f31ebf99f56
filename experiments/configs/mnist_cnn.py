"""Adaptive batch sizes for a small CNN on MNIST.

Source: Lau et al., AdAdaGrad (arXiv 2402.11215), the settings of its published
code (github.com/timlautk/AdAdaGrad): η = 0.1, b_0 = 8; the budget is 1.2 M
examples, a fifth of theirs. The functions of that code in a bare PyTorch loop,
run elsewhere, not by a script of this repository, seed 42, on two CPU cores and
one device: 62 steps, mean batch 19 667, train loss 0.193, test accuracy 0.950,
2035 s; batch sizes 8, 1098, 2125, …. Expected of `norm_0p1` on two cores: 62
steps, mean batch 19 585, train loss 0.245, test accuracy 0.933, 249 s.

  python -m adaopt.experiments.compare \
    --config=experiments/configs/mnist_cnn.py \
    --workdir=runs/mnist_cnn --schemes=norm_0p1
"""

import ml_collections

from adaopt.experiments.configs import common


def get_config() -> ml_collections.ConfigDict:
  """θ = 0.06 and ν = 0.08 together imply the norm test with η = 0.1."""
  config = common.get_config()
  config.dataset = 'mnist'
  config.model = 'cnn'
  config.seed = 42
  config.num_examples = 1_200_000
  config.eval_interval = 30_000
  config.eval_train_examples = 10_000
  config.max_micro_batch_size = 64
  base = {'optimizer': 'adagrad', 'learning_rate': 8e-3}
  sized = base | {'init_batch_size': 8, 'max_batch_size': 60_000}
  tests = {
    **common.norm_tests(0.1, 0.5, 1.0),
    **common.inner_product_tests(theta=0.06, nu=0.08),
    **common.coordinate_tests(0.5, 'mean', 'median'),
    **common.further_tests(0.5),
  }
  config.schemes = {
    **common.adaptive(sized, tests),
    **common.fixed(base, 32, 256, 2048, 16_384),
    **common.growing(base, 8, 60_000, config.num_examples),
  }
  return config
