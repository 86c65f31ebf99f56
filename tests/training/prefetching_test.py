"""Feeds of several processes that wait for each other, or part company."""

import itertools

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import adaopt
from adaopt.training import agreeing
from tests.training import shared_run

M = 8
ROWS = np.arange(6 * M, dtype=np.float32).reshape(-1, 1)


@pytest.fixture
def heard(monkeypatch):
  """What is asked and heard of another process, which says the same.

  But for what the dictionary `answers` has it say of a micro-batch.
  """
  events, answers, count = [], {}, itertools.count()

  def ask(mesh, numbers):
    del mesh
    i = next(count)
    events.append(('ask', i))

    def hear():
      events.append(('hear', i))
      return {0: numbers, 1: answers.get(i, numbers)}

    return hear

  monkeypatch.setattr(agreeing, 'processes', lambda mesh: {0, 1})
  monkeypatch.setattr(agreeing, 'ask', ask)
  return events, answers


def micro_batches(heard):
  """The first examples of all micro-batches, in turn."""
  events, _ = heard
  feed = adaopt.feed([*ROWS.reshape(-1, M, 1)])
  feed.place(NamedSharding(shared_run.mesh_of(8), PartitionSpec('data')))
  for position in range(feed.locate(0), 10 * M, M):
    piece = feed.read(position)
    if piece is None:
      return
    events.append(('use', position // M))
    yield float(piece.examples[0, 0])


def test_no_micro_batch_is_waited_for(heard):
  """What is heard of one was asked before the one before it is used."""
  assert list(micro_batches(heard)) == [*ROWS[::M, 0]]
  events, _ = heard
  for i in range(1, 6):
    asked, heard_of = events.index(('ask', i)), events.index(('hear', i))
    assert asked < events.index(('use', i - 1)) < heard_of
    assert heard_of < events.index(('use', i))


HAS, ENDED, FAILED = range(3)


def test_a_stream_ends_where_that_of_another_process_does(heard, caplog):
  _, answers = heard
  answers[3] = [ENDED, 0]
  assert list(micro_batches(heard)) == [*ROWS[: 3 * M : M, 0]]
  (warning,) = caplog.messages
  assert 'ended in process 1 and has more in process 0: the run' in warning


@pytest.mark.parametrize(
  ('answer', 'message'),
  [
    ([FAILED, 0], 'failed in process 1, where its error says why'),
    ([HAS, 17], '2 processes read different micro-batches at position 24, and'),
  ],
)
def test_what_another_process_lacks_meets_a_sentence(answer, message, heard):
  _, answers = heard
  answers[3] = answer
  found = micro_batches(heard)
  assert len([*itertools.islice(found, 3)]) == 3
  with pytest.raises(ValueError, match=message):
    next(found)


def test_digests_are_of_numbers_types_and_shapes():
  x = np.float32([[1, 2], [3, 4]])
  keys = jax.random.split(jax.random.key(0), 2)
  values = [
    x,
    -x,
    x.reshape(-1),
    x.view(np.int32),
    x.astype(jax.numpy.bfloat16),
    x[:0],
    [x, None, x],
    keys,
    keys[::-1],
    None,
    300,
    'a program',
  ]
  digests = {agreeing.digest(value) for value in values}
  assert len(digests) == len(values)
  # Where an array lies makes no difference.
  assert agreeing.digest(jax.device_put(x)) == agreeing.digest(x)
  assert agreeing.digest(x.T.copy().T) == agreeing.digest(x)


@pytest.mark.parametrize('axes', [{'a': 8}, {'a': 2, 'b': 4}])
def test_what_a_mesh_is_asked_comes_back(axes):
  kind = (jax.sharding.AxisType.Auto,) * len(axes)
  mesh = jax.make_mesh((*axes.values(),), (*axes,), axis_types=kind)
  answers = agreeing.ask(mesh, [0, 7, 2**32 - 1])()
  assert [*answers] == [0]
  assert answers[0].tolist() == [0, 7, 2**32 - 1]
