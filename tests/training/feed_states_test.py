"""A feed that resumes elsewhere than its train state, or loses its place."""

import itertools
import json
import logging
import pathlib
import re
import signal
import subprocess
import sys

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adaopt

ROOT = pathlib.Path(__file__).parents[2]
N, M = 100, 6
DATA = np.random.default_rng(0).normal(1.0, size=[N, 3]).astype(np.float32)
PARAMS = jnp.zeros([1, 3])
OPTIMIZER = optax.chain(
  adaopt.adapt_batch_size(
    adaopt.norm_test(0.4),
    init_batch_size=3,
    max_batch_size=29,
    policy=adaopt.capped_growth(1.5),
  ),
  optax.sgd(0.02),
)


def loss_fn(params, batch):
  return jnp.mean((params - batch) ** 2)


def in_memory():
  return grain.MapDataset.source(DATA).shuffle(7).repeat(2)


def read_in_threads():
  options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=9)
  return in_memory().to_iter_dataset(options)


def in_micro_batches():
  return in_memory().batch(M)


def filtered():
  """Of which an index says nothing of a position."""
  dataset = in_memory().to_iter_dataset().filter(lambda x: x[0] > 0)
  return grain.experimental.WindowShuffleIterDataset(
    dataset, window_size=10, seed=1
  )


def loaded():
  """The older interface, whose states are bytes."""
  return grain.DataLoader(
    data_source=DATA,
    sampler=grain.samplers.IndexSampler(N, shuffle=True, seed=5, num_epochs=2),
  )


class Counting:
  """An iterator of one's own."""

  def __init__(self):
    self.count = 0

  def __iter__(self):
    return self

  def __next__(self):
    self.count += 1
    if self.count > 2 * N:
      raise StopIteration
    return DATA[self.count * 7 % N]

  def get_state(self):
    return {'count': self.count}

  def set_state(self, state):
    self.count = state['count']


SOURCES = {
  'map dataset': in_memory,
  'threads': read_in_threads,
  'micro-batches': in_micro_batches,
  'filtered and shuffled': filtered,
  'data loader': loaded,
  'own': Counting,
  'list': lambda: [*DATA, *DATA],
}


def feed_of(name):
  size = None if name == 'micro-batches' else M
  return adaopt.feed(SOURCES[name](), micro_batch_size=size)


def start():
  return adaopt.init_train_state(PARAMS, OPTIMIZER)


def steps(feed, state, **options):
  return adaopt.fit(loss_fn, OPTIMIZER, state, feed, check=False, **options)


def train(feed, state=None):
  """(state, metrics) of every step, and what the feed's state is then."""
  state = start() if state is None else state
  return [
    (*jax.device_get(pair), feed.get_state()) for pair in steps(feed, state)
  ]


@pytest.mark.slow
@pytest.mark.parametrize('name', SOURCES)
def test_a_fed_run_resumes_from_any_state_to_the_last_bit(name):
  whole = train(feed_of(name))
  assert len(whole) > 6
  for i in (0, 1, len(whole) // 2, len(whole) - 2):
    state, _, saved = whole[i]
    feed = feed_of(name)
    feed.set_state(saved)
    rest = train(feed, jax.tree.map(jnp.asarray, state))
    chex.assert_trees_all_equal(
      [pair[:2] for pair in rest], [pair[:2] for pair in whole[i + 1 :]]
    )


@pytest.mark.slow
def test_a_run_that_is_killed_resumes_to_the_last_bit(tmp_path):
  """With orbax, and the handler of grain for the feed."""
  program = [sys.executable, '-m', 'tests.training.killed_runs', tmp_path]
  options = dict(cwd=ROOT, text=True)
  with subprocess.Popen(program, stdout=subprocess.PIPE, **options) as run:
    for line in run.stdout:
      if line == 'saved 7\n':
        run.send_signal(signal.SIGKILL)
        break
  assert run.returncode == -signal.SIGKILL
  done = subprocess.run(
    [*program, 'compare'], capture_output=True, check=False, **options
  )
  assert done.returncode == 0, done.stderr
  step, same = re.search(r'after (\d+) the same (\w+)', done.stdout).groups()
  assert 1 <= int(step) <= 8
  assert same == 'True'


@pytest.mark.parametrize('element', [1, 7, 40, 90])
def test_a_run_that_ctrl_c_ends_as_it_reads_resumes_to_the_last_bit(element):
  class Interrupted(Counting):
    def __next__(self):
      if self.count == element:
        raise KeyboardInterrupt
      return super().__next__()

  feed = adaopt.feed(Interrupted(), micro_batch_size=M)
  history = [(start(), None)]
  with pytest.raises(KeyboardInterrupt):
    history.extend(steps(feed, start()))
  state, _ = history[-1]
  resumed = feed_of('own')
  resumed.set_state(feed.get_state())
  rest = train(resumed, state)
  whole = train(feed_of('own'))
  chex.assert_trees_all_equal(rest[-1][:2], whole[-1][:2])
  assert len(rest) + len(history) - 1 == len(whole)
  # A source that was interrupted is not taken for one that has ended.
  with pytest.raises((KeyboardInterrupt, ValueError)):
    train(feed, state)


@pytest.mark.slow
def test_a_file_larger_than_memory_trains(tmp_path):
  program = 'tests.training.larger_than_memory'
  done = subprocess.run(
    [sys.executable, '-m', program, tmp_path / 'rows'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert 'trained on 8192, the file fits: False' in done.stdout
  # Of rows in a random order, of which each 64th is of ones.
  assert 0.9 < float(done.stdout.split()[-1]) < 1.1


def test_states_are_of_the_last_steps_alone():
  """What is saved does not grow with a batch."""
  feed = adaopt.feed([*DATA], micro_batch_size=2)
  sizes = [len(json.loads(saved)[1]) for _, _, saved in train(feed) if saved]
  assert max(sizes) <= 5


def test_a_state_that_the_feed_has_left_behind_meets_a_sentence():
  feed = feed_of('own')
  whole = train(feed)
  early = jax.tree.map(jnp.asarray, whole[1][0])
  message = r'consumed 6 examples, and the feed can go on between \d+ and 200'
  with pytest.raises(ValueError, match=message):
    train(feed, early)
  # And so does one that a new feed has not come to.
  message = r'consumed 6 examples, and the feed can go on between 0 and 0: give'
  with pytest.raises(ValueError, match=message):
    train(feed_of('own'), early)
  # Once it is told where it stood it goes on.
  feed.set_state(whole[1][2])
  assert len(train(feed, early)) == len(whole) - 2


def test_a_feed_goes_on_after_a_break_and_after_a_budget():
  whole = train(feed_of('own'))
  feed = feed_of('own')
  state, _ = next(itertools.islice(steps(feed, start()), 3, None))
  assert [int(m.step) for _, m, _ in train(feed, state)] == [
    int(m.step) for _, m, _ in whole[4:]
  ]
  feed, state = feed_of('own'), start()
  for budget in (40, 90, 10**6):
    *_, (state, _) = steps(feed, state, num_examples=budget)
  chex.assert_trees_all_equal(jax.device_get(state), whole[-1][0])


def test_an_ended_stream_yields_nothing_and_a_longer_one_goes_on():
  feed = adaopt.feed([*DATA[:50]], micro_batch_size=M)
  *_, (state, metrics, saved) = train(feed)
  assert metrics.examples == 50
  state = jax.tree.map(jnp.asarray, state)
  assert train(feed, state) == []
  longer = adaopt.feed([*DATA], micro_batch_size=M)
  longer.set_state(saved)
  assert train(longer, state)[-1][1].examples == N


def test_a_source_without_a_state_is_told_of_at_the_first_save(caplog):
  feed = adaopt.feed(iter(DATA), micro_batch_size=M)
  with caplog.at_level(logging.WARNING, logger='absl'):
    state, _ = next(steps(feed, start()))
    assert not caplog.text
    saved = feed.get_state()
    feed.get_state()
  (warning,) = caplog.messages
  assert 'read the source from its beginning' in warning
  feed.set_state(saved)
  with pytest.raises(ValueError, match='an iterator that cannot go back'):
    train(feed, state)
  shorter = adaopt.feed([*DATA[:4]], micro_batch_size=M)
  shorter.set_state(json.dumps([M, [[12, 6, [12, None]]]]).encode())
  message = r'ended after 4 elements, and 12 of it were read'
  with pytest.raises(ValueError, match=message):
    train(shorter, start()._replace(examples=jnp.int32(12)))


def test_a_state_of_a_source_that_is_no_json_meets_a_sentence():
  class Odd(Counting):
    def get_state(self):
      return {1, 2}

  feed = adaopt.feed(Odd(), micro_batch_size=M)
  with pytest.raises(ValueError, match='must return JSON or bytes: a set'):
    train(feed)


def test_positions_beyond_32_bits():
  """A run of 10^10 examples, of which the last hundred are trained on."""
  far = 10**10
  feed = adaopt.feed([*DATA], micro_batch_size=M)
  feed.set_state(json.dumps([M, [[far, 0, [0, None]]]]).encode())
  state = start()._replace(examples=jnp.int32(far % 2**31))
  far_ends = [int(m.examples) for _, m, _ in train(feed, state)]
  near = train(adaopt.feed([*DATA], micro_batch_size=M))
  assert far_ends == [far + int(m.examples) for _, m, _ in near]
  across = 2**31 - 20
  feed.set_state(json.dumps([M, [[across, 0, [0, None]]]]).encode())
  state = start()._replace(examples=jnp.int32(across))
  history = train(feed, state)
  assert history[-1][1].examples == across + N
  assert history[-1][0].examples == N - 20
