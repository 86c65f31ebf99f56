"""Parts that the configs share."""

from typing import Any

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """The defaults that most configs keep."""
  return ml_collections.ConfigDict(
    {
      'seed': 0,  # the first seed
      'seeds_together': False,  # as one program, if the batch sizes allow
      'group_size': 1,  # examples whose gradients are averaged
      'augmentation': 'none',
    }
  )


def adaptive(
  base: dict[str, Any], tests: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
  """One scheme per test, otherwise identical."""
  return {name: base | test for name, test in tests.items()}


def norm_tests(*etas: float) -> dict[str, dict[str, Any]]:
  """The norm test at several η; a dot in a name would break its overrides."""
  return {
    f'norm_{eta:g}'.replace('.', 'p'): {'test': 'norm', 'eta': eta}
    for eta in etas
  }


def coordinate_tests(eta: float, *reductions: str) -> dict[str, dict[str, Any]]:
  """The coordinate-wise norm test with several reductions."""
  return {
    f'coordinate_{name}': {'test': 'coordinate', 'eta': eta, 'reduce': name}
    for name in reductions
  }


def inner_product_tests(theta: float, nu: float) -> dict[str, dict[str, Any]]:
  """The inner-product test, and the augmented one."""
  return {
    'inner_product': {'test': 'inner_product', 'theta': theta},
    'augmented': {'test': 'augmented', 'theta': theta, 'nu': nu},
  }


def further_tests(eta: float) -> dict[str, dict[str, Any]]:
  """The debiased norm test, and the one in the metric of the optimizer."""
  return {
    name: {'test': name, 'eta': eta} for name in ('debiased', 'preconditioned')
  }


def fixed(base: dict[str, Any], *sizes: int) -> dict[str, dict[str, Any]]:
  """Constant batch sizes."""
  return {f'batch_{size}': base | {'batch_size': size} for size in sizes}


def growing(
  base: dict[str, Any], first: int, last: int, num_examples: int
) -> dict[str, dict[str, Any]]:
  """Sizes that grow without a test: in stages, and in a linear ramp.

  The stages take 5, 15, 30 and 50 % of the budget, and their sizes grow in
  geometric progression.
  """
  ratio = (last / first) ** (1 / 3)
  starts = (0.0, 0.05, 0.2, 0.5)
  stages = tuple(
    (round(start * num_examples), round(first * ratio**i))
    for i, start in enumerate(starts)
  )
  return {
    'stages': base | {'stages': stages},
    'ramp': base | {'ramp': (first, last, num_examples)},
  }
