"""Losses that are weighted means: a rare class, and sequences of all lengths.

python -m adaopt.experiments.weighted_losses \
  --workdir=DIR --data_dir=DIR [--seeds=3]

The first part trains logistic regression on ijcnn1 with few positives left, by
the plain mean loss and with class weights. The second trains a transformer on
padded sequences, by adaopt and in a loop of optax on the same batches, and
compares the parameters.
"""

from absl import flags

from adaopt.experiments import (
  command_line,
  datasets,
  options,
  padded_sequences,
  rare_class,
  results,
)

_EXAMPLES = flags.DEFINE_integer(
  'num_examples', 400_000, 'Examples of every run on ijcnn1.', lower_bound=1
)
_POSITIVES = flags.DEFINE_integer(
  'positives', 500, 'Positives of ijcnn1 that are kept.', lower_bound=1
)
_STEPS = flags.DEFINE_integer(
  'transformer_steps', 20, 'Steps of the transformer.', lower_bound=1
)

MICRO_BATCH_SIZES = (24, 8, 5)


def main() -> None:
  """Runs both parts; prints and writes their tables."""
  classes = options.load(datasets.DATASETS['ijcnn1'])
  text = options.load(datasets.DATASETS['shakespeare'])
  folder = options.make_workdir()
  rows = rare_class.train_classes(
    classes,
    positives=_POSITIVES.value,
    num_examples=_EXAMPLES.value,
    seeds=options.SEEDS.value,
  )
  table = results.averages(rows, rare_class.OUTCOMES)
  results.save(rows, table, folder, 'classes')
  print(table, flush=True)
  rows = padded_sequences.train_tokens(
    text.train, num_steps=_STEPS.value, micro_batch_sizes=MICRO_BATCH_SIZES
  )
  table = padded_sequences.differences(rows)
  results.save(rows, table, folder, 'tokens')
  print(f'\n{table}')


if __name__ == '__main__':
  command_line.run(main, ['workdir'], ['data_dir', 'seeds'])
