"""A language model of characters, for `adaopt.experiments.language_model`.

It has around it what a real run has: dropout, an average of the weights,
warm-up, clipping, a mask of weight decay, parameters in parts on all devices.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Four layers of width 128; speeches of up to 128 characters; b_0 = 16."""
  return ml_collections.ConfigDict(
    {
      'dataset': 'shakespeare',
      'seed': 0,
      'length': 128,
      'micro_batch_size': 16,
      'num_tokens': 400_000,
      'eval_interval': 50_000,  # tokens
      'eval_sequences': 512,
      'half_life': 2000,  # of the average, examples
      'layout': 'fully_sharded',
      'model': {
        'width': 128,
        'num_layers': 4,
        'num_heads': 4,
        'dropout': 0.1,
        'dtype': 'bfloat16',
      },
      'optimizer': {
        'learning_rate': 1e-3,
        'warmup_examples': 1000,
        'b1': 0.9,
        'b2': 0.99,
        'weight_decay': 0.1,
        'clip_norm': 1.0,
        'init_batch_size': 16,
        'max_batch_size': 512,
      },
    }
  )
