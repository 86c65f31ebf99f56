"""A misread data file, code run from a file, or a test set that changes."""

import bz2
import errno
import gzip
import io
import pathlib
import pickle
import tarfile
import tracemalloc

import jax
import numpy as np
import packed_cifar
import pytest
from data_files import (
  as_python2_pickle,
  binary,
  idx_bytes,
  pickled,
  planes_of,
  write_archive,
  write_mnist,
)

from adaopt.experiments import datasets
from adaopt.experiments.datasets import base, cifar, idx, libsvm

DATASETS = datasets.DATASETS


@pytest.mark.parametrize('folder', ['mnist', 'MNIST/raw', '.'])
@pytest.mark.parametrize('suffix', ['', '.gz'])
def test_idx_files_are_found_and_read(tmp_path, folder, suffix):
  written = write_mnist(tmp_path / 'data' / folder, suffix)
  dataset = DATASETS['mnist'](str(tmp_path / 'data'))
  for (part, kind), array in written.items():
    np.testing.assert_array_equal(getattr(dataset, part)[kind], array)
  assert dataset.train['label'].dtype == np.int32


@pytest.mark.parametrize(
  ('name', 'needed'),
  [
    ('mnist', (*idx.IDX_FILES.values(), 'mnist, ')),
    ('cifar10', ('cifar-10-python.tar.gz', 'cifar-10-batches-bin', 'cifar10')),
    ('shakespeare', ('tinyshakespeare.txt', 'text')),
    ('a9a', ('a9a and a9a.t', 'libsvm')),
    ('w8a', ('w8a needs w8a', 'libsvm')),
  ],
)
def test_missing_files_are_named_with_their_origin(tmp_path, name, needed):
  with pytest.raises(FileNotFoundError) as raised:
    DATASETS[name](str(tmp_path))
  message = str(raised.value)
  for text in (*needed, f'Looked in: {tmp_path}/', 'https://'):
    assert text in message
  with pytest.raises(FileNotFoundError, match=r'none was given.*ADAOPT_DATA'):
    DATASETS[name](None)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'not an idx file'),
    (b'\x89PNG', 'not an idx file'),
    (
      idx_bytes(np.zeros((3, 2), np.uint8))[:-1],
      'holds 5 bytes, .* promises 6',
    ),
    (idx_bytes(np.zeros((3, 2), np.uint8)) + b'1', 'holds more than 6 bytes'),
    (b'\0\0\x08\x03\0\0\0\x01\0', 'images.* header ends before .* 3 sizes'),
    (b'\0\0\x08\x04' + 16 * b'\xff', 'images.* promises 340282366604'),
    (b'\0\0\x08\xff' + 1020 * b'\xff', 'images is damaged .* promises'),
  ],
)
def test_damaged_idx_files_are_refused(tmp_path, content, message):
  path = tmp_path / 'images'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message):
    idx.read_idx(path)


def test_a_truncated_gzip_file_is_refused(tmp_path):
  path = tmp_path / 'images.gz'
  path.write_bytes(gzip.compress(idx_bytes(np.zeros((90, 9), np.uint8)))[:-9])
  with pytest.raises(ValueError, match='is damaged'):
    idx.read_idx(path)


def test_a_gzip_bomb_is_not_inflated(tmp_path):
  path = tmp_path / 'images.gz'
  content = idx_bytes(np.zeros((1, 9), np.uint8)) + bytes(2**26)
  path.write_bytes(gzip.compress(content))
  tracemalloc.start()
  with pytest.raises(ValueError, match='holds more than 9 bytes'):
    idx.read_idx(path)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 2**22


WRONG_PARTS = {
  'fewer labels': ('label', np.zeros(39, np.uint8), r'labels \[40\] of the im'),
  'a label of no class': (
    'label',
    np.array([3] * 39 + [10], np.uint8),
    'holds the label 10 at 39',
  ),
  'images for labels': (
    'label',
    np.zeros((40, 28, 28), np.uint8),
    r'\[40, 28, 28\] rather than the labels',
  ),
  'labels for images': (
    'input',
    np.zeros(40, np.uint8),
    r'\[40\] rather than images',
  ),
  'no images': (
    'input',
    np.zeros((0, 28, 28), np.uint8),
    r'\[0, 28, 28\] rather',
  ),
}


@pytest.mark.parametrize(
  ('kind', 'array', 'message'), WRONG_PARTS.values(), ids=WRONG_PARTS
)
def test_images_and_labels_that_do_not_match_are_refused(
  tmp_path, kind, array, message
):
  write_mnist(tmp_path / 'mnist')
  path = tmp_path / 'mnist' / idx.IDX_FILES['train', kind]
  path.write_bytes(idx_bytes(array))
  with pytest.raises(ValueError, match=message) as raised:
    DATASETS['mnist'](str(tmp_path))
  assert str(path) in str(raised.value)


def test_digits_are_split_for_good():
  dataset = DATASETS['digits']()
  assert dataset.train['input'].shape == (1437, 8, 8)
  assert dataset.test['input'].shape == (360, 8, 8)
  assert dataset.train['input'].max() == 1.0
  again = DATASETS['digits']()
  jax.tree.map(np.testing.assert_array_equal, dataset, again)


# CIFAR-10: four images a batch, of random bytes.

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, 32, 32, 3)).astype(np.uint8)
LABELS = RNG.integers(0, 10, 24).astype(np.uint8)


LAYOUTS = list(zip(cifar.LAYOUTS, (pickled, binary), strict=True))
every_layout = pytest.mark.parametrize(('layout', 'encode'), LAYOUTS)


def batches(layout, encode):
  """The content of each file, by name."""
  parts = (slice(4 * i, 4 * i + 4) for i in range(6))
  contents = (encode(IMAGES[part], LABELS[part]) for part in parts)
  return dict(zip(layout.files, contents, strict=True))


def write_folder(folder, layout, encode):
  folder.mkdir(parents=True, exist_ok=True)
  for file, content in batches(layout, encode).items():
    (folder / file).write_bytes(content)


def batches_as_members(layout, encode):
  return {
    f'{layout.folder}/{file}': content
    for file, content in batches(layout, encode).items()
  }


def assert_is_what_was_written(dataset):
  np.testing.assert_array_equal(dataset.train['input'], IMAGES[:20])
  np.testing.assert_array_equal(dataset.train['label'], LABELS[:20])
  np.testing.assert_array_equal(dataset.test['input'], IMAGES[20:])
  np.testing.assert_array_equal(dataset.test['label'], LABELS[20:])
  assert dataset.test['input'].dtype == np.uint8
  assert dataset.test['label'].dtype == np.int32


@pytest.mark.parametrize('folder', ['cifar10', 'cifar-10', '.'])
@every_layout
def test_cifar_is_read_from_folders(tmp_path, folder, layout, encode):
  write_folder(tmp_path / 'data' / folder / layout.folder, layout, encode)
  assert_is_what_was_written(DATASETS['cifar10'](tmp_path / 'data'))


@every_layout
def test_cifar_is_read_from_archives_in_any_order(tmp_path, layout, encode):
  members = batches_as_members(layout, encode)
  members[f'{layout.folder}/readme.html'] = b'<html>'
  members = dict(reversed(members.items()))
  write_archive(tmp_path / 'cifar10' / layout.archive, members)
  assert_is_what_was_written(DATASETS['cifar10'](tmp_path))


@pytest.mark.parametrize('end', [1000, -10, -5])
@every_layout
def test_truncated_archives_are_refused(tmp_path, layout, encode, end):
  path = tmp_path / layout.archive
  write_archive(path, batches_as_members(layout, encode))
  path.write_bytes(path.read_bytes()[:end])
  with pytest.raises(ValueError, match=f'{layout.archive} is damaged'):
    DATASETS['cifar10'](tmp_path)


@every_layout
def test_truncated_batches_are_refused(tmp_path, layout, encode):
  write_folder(tmp_path / layout.folder, layout, encode)
  path = tmp_path / layout.folder / layout.files[2]
  path.write_bytes(path.read_bytes()[:-1000])
  with pytest.raises(ValueError, match=f'{path.name} is damaged .* fresh copy'):
    DATASETS['cifar10'](tmp_path)


@pytest.mark.parametrize(
  'content', [b'<html>', gzip.compress(b'<html>')], ids=['html', 'gzip']
)
def test_what_is_no_archive_is_refused(tmp_path, content):
  path = tmp_path / 'cifar-10-python.tar.gz'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=f'{path} is damaged'):
    DATASETS['cifar10'](tmp_path)


def test_an_archive_without_a_batch_says_which(tmp_path):
  layout = cifar.LAYOUTS[1]
  members = batches_as_members(layout, binary)
  del members['cifar-10-batches-bin/data_batch_4.bin']
  write_archive(tmp_path / layout.archive, members)
  with pytest.raises(ValueError, match=r'it lacks .*/data_batch_4\.bin'):
    DATASETS['cifar10'](tmp_path)


@pytest.mark.parametrize(
  ('encode', 'message'),
  [
    (
      lambda x, y: pickled(x[:3], y),
      r'labels \(4,\) with images \(3, 32, 32, 3\)',
    ),
    (lambda x, y: pickled(x, y + np.uint8(10)), 'label is not in 0'),
    (lambda x, y: pickled(x.astype(float), y), 'cannot reshape'),
    (lambda x, y: pickled(x[:0], y[:0]), 'holds no images'),
    (lambda x, y: pickled(x, y[:, None]), r'labels \(4, 1\) with'),
    (
      lambda x, y: as_python2_pickle({b'data': [1], b'labels': [1]}),
      'state',
    ),
    (lambda x, y: as_python2_pickle([]), 'is damaged'),
    (lambda x, y: pickled(x, y + 0.5), 'labels of type float64'),
  ],
)
def test_pickles_of_other_things_are_refused(tmp_path, encode, message):
  layout = cifar.LAYOUTS[0]
  write_archive(tmp_path / layout.archive, batches_as_members(layout, encode))
  with pytest.raises(ValueError, match=message):
    DATASETS['cifar10'](tmp_path)


def test_an_archive_with_a_batch_twice_is_refused(tmp_path):
  layout = cifar.LAYOUTS[1]
  members = batches_as_members(layout, binary)
  path = tmp_path / layout.archive
  with tarfile.open(path, 'w:gz') as archive:
    for name, content in [*members.items(), *members.items()]:
      member = tarfile.TarInfo(name)
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))
  with pytest.raises(ValueError, match=r'it holds .*/data_batch_1\.bin twice'):
    DATASETS['cifar10'](tmp_path)


def test_a_batch_far_too_large_is_not_read(tmp_path):
  layout = cifar.LAYOUTS[1]
  members = batches_as_members(layout, binary)
  members['cifar-10-batches-bin/data_batch_2.bin'] = bytes(2**26 + 1)
  write_archive(tmp_path / layout.archive, members)
  with pytest.raises(ValueError, match=r'data_batch_2\.bin has 67108865 bytes'):
    DATASETS['cifar10'](tmp_path)


@pytest.mark.parametrize('protocol', [2, 4])
def test_a_batch_that_python_3_has_pickled_again_is_read(protocol):
  batch = {'data': planes_of(IMAGES), 'labels': LABELS.tolist()}
  images, labels = cifar.decode_pickle(pickle.dumps(batch, protocol))
  np.testing.assert_array_equal(images, IMAGES)
  np.testing.assert_array_equal(labels, LABELS)


def test_a_pickled_array_may_lie_in_columns():
  labels = LABELS.tolist()
  planes = np.asfortranarray(planes_of(IMAGES))
  content = as_python2_pickle({b'labels': labels, b'data': planes})
  images, _ = cifar.decode_pickle(content)
  np.testing.assert_array_equal(images, IMAGES)


class Touch:
  """Creates a file when a pickle of it is loaded without care."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused_and_does_nothing(tmp_path, protocol):
  trace = tmp_path / 'trace'
  content = pickle.dumps({b'data': Touch(trace)}, protocol)
  pickle.loads(content)
  assert trace.exists()
  trace.unlink()
  layout = cifar.LAYOUTS[0]
  members = batches_as_members(layout, lambda images, labels: content)
  write_archive(tmp_path / layout.archive, members)
  with pytest.raises(ValueError, match=r'asks for .*, which no array needs'):
    DATASETS['cifar10'](tmp_path)
  assert not trace.exists()


def test_residuals_are_decoded_by_hand():
  # G differs from its left neighbour by 5 at (0, 1) and from the upper row by
  # 1 in row 1; R − G is 250 ≡ −6 everywhere, B − G is 0.
  residual = np.zeros((3, 1, 32, 32), np.uint8)
  residual[1, 0, 0, 1], residual[1, 0, 1, 0], residual[0, 0, 0, 0] = 5, 1, 250
  images = packed_cifar.unpacked(residual)
  assert images[0, 0, 0].tolist() == [250, 0, 0]
  assert images[0, 0, 1].tolist() == [255, 5, 5]
  assert images[0, 31, 31].tolist() == [0, 6, 6]


def test_a_packed_batch_is_unpacked_into_what_the_loader_reads(tmp_path):
  for file, part in zip(
    packed_cifar.FILES, np.split(np.arange(24), 6), strict=True
  ):
    residual = packed_cifar.packed(IMAGES[part])
    np.savez(tmp_path / file, residual=residual, labels=LABELS[part])
  packed_cifar.unpack(tmp_path, tmp_path / 'data')
  assert_is_what_was_written(DATASETS['cifar10'](tmp_path / 'data'))


def test_shakespeare_is_cut_into_windows(tmp_path):
  letters = bytes(range(60, 125))
  text = (letters[::-1] * 50)[: 129 * 20 + 40]
  (tmp_path / 'text').mkdir()
  (tmp_path / 'text' / 'tinyshakespeare.txt').write_bytes(text)
  train, test = DATASETS['shakespeare'](tmp_path)
  # 2620 characters, of which 2358 = 18 · 129 + 36 and 262 = 2 · 129 + 4.
  for part, n, start in ((train, 18, 0), (test, 2, 2358)):
    assert part['input'].shape == part['label'].shape == (n, 128)
    assert part['input'].dtype == part['label'].dtype == np.int32
    for i in range(n):
      window = text[start + 129 * i : start + 129 * (i + 1)]
      assert bytes((60 + part['input'][i]).tolist()) == window[:-1]
      assert bytes((60 + part['label'][i]).tolist()) == window[1:]


def test_another_text_is_refused(tmp_path):
  path = tmp_path / 'tinyshakespeare.txt'
  path.write_bytes(bytes(range(66)) * 10)
  with pytest.raises(ValueError, match=r'holds 66 distinct .* has 65'):
    DATASETS['shakespeare'](tmp_path)


def test_a_text_too_short_for_a_window_is_refused(tmp_path):
  path = tmp_path / 'tinyshakespeare.txt'
  path.write_bytes((bytes(range(65)) * 20)[:1289])
  with pytest.raises(ValueError, match=r'holds 1289 characters.*window of 129'):
    DATASETS['shakespeare'](tmp_path)


COMPRESS = {'': bytes, '.gz': gzip.compress, '.bz2': bz2.compress}


def svmlight(numbers):
  """Row i has the value i + 1/2 at feature 1 + i mod 20."""
  rows = (f'{y} {1 + i % 20}:{i + 0.5}\n' for i, y in enumerate(numbers))
  return ''.join(rows).encode()


def features_of(n, num_features):
  features = np.zeros((n, num_features), np.float32)
  features[np.arange(n), np.arange(n) % 20] = np.arange(n) + 0.5
  return features


@pytest.mark.parametrize('suffix', COMPRESS)
@pytest.mark.parametrize('folder', ['libsvm', '.'])
def test_a_set_with_a_test_file_is_read(tmp_path, folder, suffix):
  folder = tmp_path / folder
  folder.mkdir(exist_ok=True)
  numbers = {'a9a': [-1, 1, 1, -1], 'a9a.t': ['+1', -1]}
  for file, y in numbers.items():
    (folder / f'{file}{suffix}').write_bytes(COMPRESS[suffix](svmlight(y)))
  train, test = DATASETS['a9a'](tmp_path)
  np.testing.assert_array_equal(train['input'], features_of(4, 123))
  np.testing.assert_array_equal(test['input'], features_of(2, 123))
  assert train['label'].tolist() == [0, 1, 1, 0]
  assert test['label'].tolist() == [1, 0]
  assert train['input'].dtype == np.float32
  assert train['label'].dtype == np.int32


@pytest.mark.parametrize('name', ['w8a', 'phishing', 'mushrooms'])
def test_a_set_without_a_test_file_is_split_for_good(tmp_path, name):
  # Classes 1 and 2, thirty and seventy of them.
  content = svmlight([1] * 30 + [2] * 70)
  (tmp_path / name).write_bytes(content)
  dataset = DATASETS[name](tmp_path)
  train, test = dataset
  assert np.bincount(train['label']).tolist() == [24, 56]
  assert np.bincount(test['label']).tolist() == [6, 14]
  # The sum of a row is its number and a half: none is lost, none is in both,
  # and each keeps its label.
  rows = np.concatenate([train['input'], test['input']]).sum(1) - 0.5
  labels = np.concatenate([train['label'], test['label']])
  assert sorted(rows) == list(range(100))
  np.testing.assert_array_equal(labels, rows >= 30)
  assert train['input'].shape[1] == libsvm.SETS[name].num_features
  again = DATASETS[name](tmp_path)
  jax.tree.map(np.testing.assert_array_equal, dataset, again)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'0 1:1\n1 69:1\n', 'is damaged .*69 features'),
    (b'0 0:1\n1 1:1\n', 'is damaged .*index 0'),
    (b'<html>', 'is damaged'),
    (svmlight([0, 1, 2]), 'holds 3 classes rather than 2'),
    (b'0 1:1\n1 2:nan\n', 'feature of example 2 is not finite'),
    (b'0 1:1\n0 2:1\n1 3:1e400\n', 'feature of example 3 is not finite'),
    (b'0 1:1\nnan 2:1\n', 'label of example 2 is not finite'),
  ],
)
def test_damaged_libsvm_files_are_refused(tmp_path, content, message):
  (tmp_path / 'phishing').write_bytes(content)
  with pytest.raises(ValueError, match=message):
    DATASETS['phishing'](tmp_path)


@pytest.mark.parametrize('suffix', ['.gz', '.bz2'])
def test_what_is_not_compressed_is_refused(tmp_path, suffix):
  (tmp_path / f'phishing{suffix}').write_bytes(b'<html>')
  with pytest.raises(ValueError, match=r'is damaged .* fresh copy'):
    DATASETS['phishing'](tmp_path)


def test_what_the_system_refuses_is_not_called_damaged():
  with pytest.raises(PermissionError), base.telling_damage('a file'):
    raise PermissionError(errno.EACCES, 'Permission denied')


@pytest.mark.parametrize('suffix', ['.gz', '.bz2'])
def test_truncated_libsvm_files_are_refused(tmp_path, suffix):
  content = COMPRESS[suffix](svmlight([0, 1] * 50))[:-9]
  (tmp_path / f'phishing{suffix}').write_bytes(content)
  with pytest.raises(ValueError, match=r'is damaged .* fresh copy'):
    DATASETS['phishing'](tmp_path)
