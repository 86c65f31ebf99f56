"""Every test sees eight CPU devices, so that sharding can be tested."""

import jax

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
