"""Data sets of the experiments, read from files and never downloaded."""

from adaopt.experiments.datasets import libsvm
from adaopt.experiments.datasets.base import Dataset
from adaopt.experiments.datasets.cifar import load_cifar10
from adaopt.experiments.datasets.digits import load_digits
from adaopt.experiments.datasets.idx import load_fashion_mnist, load_mnist
from adaopt.experiments.datasets.text import load_shakespeare

DATASETS = {
  'digits': load_digits,
  'mnist': load_mnist,
  'fashion_mnist': load_fashion_mnist,
  'cifar10': load_cifar10,
  'shakespeare': load_shakespeare,
  **libsvm.LOADERS,
}

__all__ = ['DATASETS', 'Dataset']
