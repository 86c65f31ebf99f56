"""Trains a language model.

python -m adaopt.experiments.language_model --config=… --workdir=…

A stream of padded sequences, layers scanned under remat in bfloat16, AdamW with
warm-up behind clipping, dropout, an average of the weights, parameters in parts
on all devices, and a batch size that follows the noise. The same command
resumes what was stopped or killed, on any number of devices and processes.
"""

import contextlib
import pathlib

import jax
from absl import flags

from adaopt.experiments import (
  command_line,
  config_options,
  interrupts,
  locks,
  options,
  records,
)
from adaopt.experiments.language_model import runs, training

_DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  False,
  'Whether this is one of several processes; on a cluster that JAX knows, '
  'nothing else is needed.',
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'HOST:PORT of the first process.'
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Number of processes.', lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Which of them this is, from 0.', lower_bound=0
)


def main() -> None:
  """Trains the model of a config."""
  config = config_options.CONFIG.value
  workdir = pathlib.Path(options.WORKDIR.value)
  if _DISTRIBUTED.value:
    jax.distributed.initialize(
      _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
  with contextlib.ExitStack() as stack:
    stack.enter_context(
      config_options.ending_in_words(
        'the same command resumes from the last checkpoint.'
      )
    )
    records.check(workdir, config)
    run = runs.prepare(config, options.DATA_DIR.value)
    if not jax.process_index():
      stack.enter_context(locks.held(workdir))
      records.claim(workdir, config)
    stop = stack.enter_context(interrupts.requested_stop())
    if not training.train(run, config, workdir, stop):
      print('Stopped; the same command resumes the run.')
      return
    last = records.read(workdir).eval
    print(
      f'{last["tokens"][-1]:.0f} tokens, {last["examples"][-1]:.0f} sequences: '
      f'test loss {last["test_loss"][-1]:.3f} nats a token, of the average '
      f'{last["average_test_loss"][-1]:.3f}.'
    )


if __name__ == '__main__':
  command_line.run(main, ['config', 'workdir'], ['data_dir'])
