"""If this fails, adaopt reduces the gradients of a small program wrongly.

`python tests/fuzz` draws for an hour. What it found is among the cases here.
"""

import hypothesis
import pytest

from tests.fuzz import checking, drawing, programs

assert set(drawing.OPTIONS) == {*programs.LAYERS, *programs.BLOCKS}


@pytest.mark.slow
@hypothesis.given(program=drawing.program(), way=drawing.way)
@hypothesis.settings(
  max_examples=6,
  deadline=None,
  derandomize=True,
  suppress_health_check=list(hypothesis.HealthCheck),
)
def test_random_programs(program, way):
  checking.check(program, way)
