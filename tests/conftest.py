"""Every test sees eight CPU devices, so that sharding can be tested.

Tests compile far more than they compute. So XLA optimises little and takes its
older code generator for fusions, which together halve the time to compile; and
garbage is searched for less often among the many objects of traces.

What is compiled is kept in .pytest_cache/jax, for both workers, for the
processes that tests start and for the next run. JAX finds it by all that goes
into the compiler, and counts it as compiled.
"""

import collections
import gc
import os
import pathlib

import jax
import pytest

CACHE = pathlib.Path(__file__).parents[1] / '.pytest_cache' / 'jax'
COMPILER = {
  'jax_compilation_cache_dir': str(CACHE),
  'jax_persistent_cache_min_compile_time_secs': 0.0,
  'jax_disable_most_optimizations': True,
}
FLAGS = '--xla_cpu_use_fusion_emitters=false'

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
for name, value in COMPILER.items():
  jax.config.update(name, value)
  os.environ[name.upper()] = str(value)  # for the processes that tests start
if jax.__version_info__ < (0, 12):  # Newer JAX ends at a flag it has no more.
  os.environ['XLA_FLAGS'] = f'{FLAGS} {os.environ.get("XLA_FLAGS", "")}'
gc.set_threshold(100_000)


def pytest_configure():
  """Ends any run where two files have one name: pytest imports them by it."""
  files = pathlib.Path(__file__).parent.rglob('*_test.py')
  counts = collections.Counter(path.name for path in files)
  twice = sorted(name for name, count in counts.items() if count > 1)
  if twice:
    raise pytest.UsageError(f'rename test files of equal names: {twice}')


@pytest.fixture(scope='module')
def optimised():
  """Compiles as users do: where a test counts what XLA leaves, or its order."""
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)
