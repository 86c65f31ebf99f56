"""Every test sees eight CPU devices, so that sharding can be tested.

What is compiled is kept in .pytest_cache/jax, for both workers, for the
processes that tests start and for the next run. JAX finds it by all that goes
into the compiler, and counts it as compiled.
"""

import os
import pathlib

import jax

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')

CACHE = {
  'jax_compilation_cache_dir': str(
    pathlib.Path(__file__).parents[1] / '.pytest_cache' / 'jax'
  ),
  'jax_persistent_cache_min_compile_time_secs': 0.0,
}
for name, value in CACHE.items():
  jax.config.update(name, value)
  os.environ[name.upper()] = str(value)  # for the processes that tests start
