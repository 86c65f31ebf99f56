"""Adaptive batch sizes for a small CNN on Fashion-MNIST.

Source: Lau et al., AdAdaGrad (arXiv 2402.11215); the settings of its public
code for MNIST, on harder images.

  python -m adaopt.experiments.compare \
    --config=experiments/configs/fashion_mnist_cnn.py \
    --workdir=runs/fashion_mnist_cnn
"""

import ml_collections

from adaopt.experiments.configs import mnist_cnn


def get_config() -> ml_collections.ConfigDict:
  """As `mnist_cnn`, b_0 = 8 and 1.2 M examples."""
  config = mnist_cnn.get_config()
  config.dataset = 'fashion_mnist'
  return config
