"""AdamW with adaptive batch sizes: a character-level transformer.

The norm test and the inner-product tests of AdAdaGrad (arXiv 2402.11215), whose
theory does not cover AdamW, and the noise scale of sign descent and Adam (arXiv
2602.03001) with that paper's θ and interval. The learning rate follows the
square root of the batch size, as suits Adam-like methods.

  python -m adaopt.experiments.compare \
    --config=experiments/configs/shakespeare_transformer.py \
    --workdir=runs/shakespeare_transformer
"""

import ml_collections

from adaopt.experiments.configs import common


def get_config() -> ml_collections.ConfigDict:
  """Two layers of width 128; windows of 128 characters; b_0 = 4."""
  config = common.get_config()
  config.dataset = 'shakespeare'
  config.model = 'small_transformer'
  config.num_examples = 60_000
  config.eval_interval = 5_000
  config.eval_train_examples = 1_000
  config.max_micro_batch_size = 16
  base = {
    'optimizer': 'adamw',
    'b1': 0.9,
    'b2': 0.99,
    'weight_decay': 0.01,
    'learning_rate': 1e-3,
  }
  sized = base | {
    'init_batch_size': 4,
    'max_batch_size': 256,
    'learning_rate_exponent': 0.5,
  }
  tests = {
    **common.norm_tests(0.5, 1.0, 2.0),
    **common.inner_product_tests(theta=0.6, nu=0.8),
    **common.coordinate_tests(8.0, 'median'),
    **common.further_tests(1.0),
    'sign': {'test': 'sign_noise_scale', 'theta': 0.6, 'test_interval': 100},
  }
  config.schemes = {
    **common.adaptive(sized, tests),
    **common.fixed(base, 4, 32, 256),
    **common.growing(base, 4, 256, config.num_examples),
  }
  return config
