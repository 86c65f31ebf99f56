"""A page of the built site that a reader cannot use.

`make docs` builds it; without that these tests are skipped.
"""

import functools
import pathlib
import re
import shutil
import subprocess
import urllib.parse

import pytest

bs4 = pytest.importorskip('bs4', reason='the extra docs is not installed')

SITE = pathlib.Path(__file__).parents[1] / 'docs' / 'build' / 'html'
# Sources with lines of their own, and pages without content.
WITHOUT_HEADING = {'genindex.html', 'search.html', 'py-modindex.html'}
PAGES = sorted(
  path.relative_to(SITE).as_posix()
  for path in SITE.rglob('*.html')
  if not path.relative_to(SITE).as_posix().startswith(('_static', '_modules'))
)
CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
pytestmark = pytest.mark.skipif(
  not PAGES, reason='the site is not built: run `make docs`'
)


@functools.cache
def parsed(page):
  return bs4.BeautifulSoup((SITE / page).read_text(), 'html.parser')


@functools.cache
def anchors(page):
  tags = parsed(page).find_all(True)
  return {tag.get(key) for tag in tags for key in ('id', 'name')}


@pytest.mark.parametrize('page', PAGES)
def test_page_has_a_title_and_one_heading(page):
  found = parsed(page)
  assert found.title.text
  if page not in WITHOUT_HEADING:
    assert len(found.select('article h1')) == 1


@pytest.mark.parametrize('page', PAGES)
def test_links_anchors_and_images_resolve(page):
  missing = []
  for tag in parsed(page).find_all(['a', 'img', 'link', 'script']):
    link = tag.get('href') or tag.get('src') or ''
    url = urllib.parse.urlsplit(link)
    if url.scheme or url.netloc:
      continue
    path = urllib.parse.unquote(url.path)
    target = (SITE / page).parent / path if path else SITE / page
    if not target.exists():
      missing.append(link)
    elif url.fragment and target.suffix == '.html':
      name = target.resolve().relative_to(SITE.resolve()).as_posix()
      if urllib.parse.unquote(url.fragment) not in anchors(name):
        missing.append(link)
  assert not missing


@pytest.mark.parametrize('page', PAGES)
def test_no_markup_is_left_in_the_text(page):
  found = parsed(page)
  assert not found.select('.problematic')
  text = ' '.join(
    string
    for string in found.body.find_all(string=True)
    if not string.find_parent(['code', 'pre', 'script', 'style'])
  )
  assert not re.search(r':[a-z]+:`|```|\]\(http', text)


@pytest.mark.skipif(not CHROMIUM, reason='no Chromium on this machine')
@pytest.mark.parametrize('page', ['index.html', 'choosing.html'])
def test_page_opens_in_a_browser(page):
  run = subprocess.run(
    [
      *(CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu'),
      *('--enable-logging=stderr', '--virtual-time-budget=5000', '--dump-dom'),
      (SITE / page).as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert '</html>' in run.stdout
  assert 'Uncaught' not in run.stderr
