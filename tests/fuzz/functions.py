"""The layers of random programs that have no parameters: [T, D] → [T, D]."""

import jax
import jax.numpy as jnp


@jax.custom_jvp
def softly(x):
  return jnp.tanh(x)


softly.defjvp(lambda p, t: (jnp.tanh(*p), (1 - jnp.tanh(*p) ** 2) * t[0]))


@jax.custom_vjp
def reversed_sine(x):
  """The backward pass is not its derivative, but linear."""
  return jnp.sin(x)


reversed_sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (-jnp.cos(x) * g,))

FUNCTIONS = {
  'tanh': jnp.tanh,
  'sine': jnp.sin,
  'softplus': jax.nn.softplus,
  'gelu': jax.nn.gelu,
  'square': lambda h: h**2 / 2,
  'softmax': jax.nn.softmax,
  'logsumexp': lambda h: jax.nn.logsumexp(h, 1, keepdims=True),
  'custom_jvp': softly,
  'custom_vjp': reversed_sine,
  'stop_gradient': lambda h: h + jax.lax.stop_gradient(jnp.sin(h)),
  'transpose': lambda h: h.T,
  'flatten': lambda h: h.reshape(1, -1),
  'column': lambda h: h.reshape(-1, 1),
  'concatenate': lambda h: jnp.concatenate([h, jnp.sin(h)], 1),
  'stack': lambda h: jnp.concatenate([h, h[::-1]]),
  'pad': lambda h: jnp.pad(h, ((1, 0), (0, 1)), constant_values=0.5),
  'reflect': lambda h: jnp.pad(h, ((1, 1), (0, 0)), 'edge'),
  'reverse': lambda h: h[::-1],
  'roll': lambda h: jnp.roll(h, 1, 0),
  'stride': lambda h: h[:, ::2],
  'differences': lambda h: h[1:] - h[:-1] if len(h) > 1 else h,
  'mean': lambda h: jnp.mean(h, 0, keepdims=True),
  'sum': lambda h: jnp.sum(h, 1, keepdims=True),
  'product': lambda h: jnp.prod(jnp.tanh(h), 1, keepdims=True),
  'cumsum': lambda h: jnp.cumsum(h, 0) / len(h),
  'cumprod': lambda h: jnp.cumprod(jnp.cos(h), 0),
  'cumlogsumexp': lambda h: jax.lax.cumlogsumexp(h, 0),
  'associative scan': lambda h: jax.lax.associative_scan(jnp.multiply, h / 2),
  'similarities': lambda h: jnp.tanh(h @ h.T),
  'fourier': lambda h: jnp.abs(jnp.fft.rfft(h, axis=1)) ** 2 / h.shape[1],
  'barrier': jax.lax.optimization_barrier,
  'empty': lambda h: h + jnp.sum(h[:0]),
  'relu': jax.nn.relu,
  'abs': jnp.abs,
  'clip': lambda h: jnp.clip(h, -0.5, 0.5),
  'sort': lambda h: jnp.sort(h, 0),
  'top_k': lambda h: jax.lax.top_k(h, 1)[0],
  'max': lambda h: jnp.max(h, 0, keepdims=True),
  'cummax': lambda h: jax.lax.cummax(h, 0),
  'pool': lambda h: jax.lax.reduce_window(
    h, -jnp.inf, jax.lax.max, (2, 1), (1, 1), 'SAME'
  ),
  'argsort': lambda h: h[jnp.argsort(h[:, 0])],
}
