"""Data sets of the experiments, read from files and never downloaded."""

from experiments.datasets import libsvm
from experiments.datasets.base import Dataset
from experiments.datasets.cifar import load_cifar10
from experiments.datasets.digits import load_digits
from experiments.datasets.idx import load_fashion_mnist, load_mnist
from experiments.datasets.text import load_shakespeare

DATASETS = {
  'digits': load_digits,
  'mnist': load_mnist,
  'fashion_mnist': load_fashion_mnist,
  'cifar10': load_cifar10,
  'shakespeare': load_shakespeare,
  **libsvm.LOADERS,
}

__all__ = ['DATASETS', 'Dataset']
