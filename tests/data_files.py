"""Small data files, in the layouts of the published ones."""

import gzip
import io
import pickle
import tarfile
import types

import numpy as np

from adaopt.experiments.datasets import idx


def idx_bytes(array):
  header = bytes([0, 0, 8, array.ndim])
  return header + np.array(array.shape, '>u4').tobytes() + array.tobytes()


def write_mnist(folder, suffix=''):
  """Forty training and twenty test images, drawn so that labels show."""
  folder.mkdir(parents=True)
  rng = np.random.default_rng(0)
  written = {}
  for part, n in (('train', 40), ('test', 20)):
    labels = np.arange(n, dtype=np.uint8) % 10
    images = rng.integers(0, 50, (n, 28, 28)).astype(np.uint8)
    images[np.arange(n), labels] = 255
    for kind, array in (('input', images), ('label', labels)):
      content = idx_bytes(array)
      path = folder / (idx.IDX_FILES[part, kind] + suffix)
      path.write_bytes(gzip.compress(content) if suffix else content)
      written[part, kind] = array
  return written


class Python2Pickler(pickle._Pickler):
  """Writes as Python 2 and its NumPy did: old names, strings as bytes."""

  def save_string(self, text):
    content = text.encode() if isinstance(text, str) else text
    self.write(pickle.BINSTRING + len(content).to_bytes(4, 'little') + content)

  def save_bool(self, value):
    self.save(int(value))

  def save_global(self, thing, name=None):
    module = thing.__module__.replace('numpy._core', 'numpy.core')
    self.write(f'c{module}\n{thing.__name__}\n'.encode())

  dispatch = types.MappingProxyType(
    pickle._Pickler.dispatch
    | {
      bool: save_bool,
      bytes: save_string,
      str: save_string,
      type: save_global,
    }
  )


def as_python2_pickle(things):
  file = io.BytesIO()
  Python2Pickler(file, protocol=2).dump(things)
  return file.getvalue()


def planes_of(images):
  return images.transpose(0, 3, 1, 2).reshape(-1, 3072)


def pickled(images, labels):
  batch = {
    b'batch_label': b'a batch',
    b'labels': labels.tolist(),
    b'data': planes_of(images),
    b'filenames': [b'a.png'] * len(labels),
  }
  return as_python2_pickle(batch)


def binary(images, labels):
  rows = np.concatenate([labels[:, None], planes_of(images)], 1)
  return rows.tobytes()


def write_archive(path, members):
  """Members as {name: content}."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, 'w:gz') as archive:
    for name, content in members.items():
      member = tarfile.TarInfo(name)
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))


def write_libsvm(folder, name, num_features, n=40):
  """Training and test files of two classes, told apart by feature 1."""
  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  for suffix in ('', '.t'):
    rows = []
    for label in np.arange(n) % 2:
      values = rng.normal(size=num_features)
      values[0] += label
      cells = (f'{k}:{x:.3f}' for k, x in enumerate(values, 1))
      rows.append(f'{2 * label - 1:+d} {" ".join(cells)}\n')
    (folder / f'{name}{suffix}').write_text(''.join(rows))


def write_shakespeare(folder, windows=40):
  """A text of 65 distinct characters, of that many windows and a bit."""
  folder.mkdir(parents=True, exist_ok=True)
  letters = np.arange(60, 125, dtype=np.uint8)
  text = np.random.default_rng(0).choice(letters, 129 * windows + 40)
  text[: len(letters)] = letters
  (folder / 'tinyshakespeare.txt').write_bytes(text.tobytes())
