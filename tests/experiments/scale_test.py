"""A scanned transformer on meshes costs what its plain gradient costs."""

import pytest

from experiments.benchmarks import scale, scanned

SMALL = scanned.Size(
  layers=2, width=64, heads=4, vocabulary=16, length=32, batch_size=16
)


VARIANCE = {'variance': ('variance',)}


def costs(name, layers):
  size = SMALL._replace(layers=layers)
  layout = scale.LAYOUTS[name]
  return scale.costs(scale.on_mesh, size, layout, 8, read=VARIANCE)


def check(plain, variance):
  assert variance.memory <= 1.3 * plain.memory
  assert variance.flops <= 1.1 * plain.flops
  assert variance.sent <= 1.05 * plain.sent


@pytest.mark.parametrize('name', ['data parallel', 'tensor parallel'])
def test_the_variance_costs_a_plain_gradient_on_a_mesh(name):
  check(**costs(name, 2))


def test_so_does_every_layer_that_is_fully_sharded():
  few, many = (costs('FSDP', layers) for layers in (2, 8))
  check(**few)
  growth = {name: many[name].memory - few[name].memory for name in few}
  assert growth['variance'] <= 1.3 * growth['plain']
  # What a loop sends is counted once.
  assert many['variance'].sent - few['variance'].sent <= 0.01


def test_bytes_of_collectives():
  text = """
  %a = f32[4,2]{1,0} all-reduce(%x), replica_groups={}
  %b = (bf16[10]{0}, pred[6]{0}) all-gather-start(%y)
  %c = f32[100]{0} add(%a, %b)
  """
  assert scale.sent(text) == pytest.approx(1e-6 * (32 + 20 + 6))
