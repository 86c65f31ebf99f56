"""scikit-learn's handwritten digits, which need no file."""

import numpy as np
from sklearn import datasets, model_selection

from adaopt.experiments.datasets import base


def load_digits(data_dir: str | None = None) -> base.Dataset:
  """scikit-learn's handwritten digits: 8×8 images in [0, 1], 1437 and 360."""
  del data_dir
  digits = datasets.load_digits()
  images = (digits.images / 16).astype(np.float32)
  labels = digits.target.astype(np.int32)
  split = model_selection.train_test_split(
    images, labels, test_size=0.2, random_state=0, stratify=labels
  )
  train_images, test_images, train_labels, test_labels = split
  return base.Dataset(
    {'input': train_images, 'label': train_labels},
    {'input': test_images, 'label': test_labels},
  )
