"""A page of the built site that a reader cannot use.

`make docs` builds it; without that these tests are skipped.
"""

import functools
import html.parser
import pathlib
import re
import shutil
import subprocess
import urllib.parse

import pytest

SITE = pathlib.Path(__file__).parents[1] / 'docs' / 'build'
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


class Page(html.parser.HTMLParser):
  """The parts of a page that are checked."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.links, self.anchors = [], [], set()
    self.classes, self.text, self.within = set(), [], []
    self.headings, self.in_article = 0, False  # the theme has its own for print
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.tags.append(tag)
    self.in_article |= tag == 'article'
    self.headings += self.in_article and tag == 'h1'
    self.anchors |= {attrs.get('id'), attrs.get('name')}
    self.classes |= set((attrs.get('class') or '').split())
    if tag in ('a', 'img', 'link', 'script'):
      self.links.append(attrs.get('href') or attrs.get('src'))
    if tag in ('code', 'pre', 'script', 'style', 'title'):
      self.within.append(tag)

  def handle_endtag(self, tag):
    if self.within and self.within[-1] == tag:
      self.within.pop()

  def handle_data(self, data):
    if not self.within:
      self.text.append(data)


@functools.cache
def parsed(page):
  return Page((SITE / page).read_text())


@pytest.mark.parametrize('page', PAGES)
def test_page_has_a_title_and_one_heading(page):
  found = parsed(page)
  assert 'title' in found.tags
  if page not in WITHOUT_HEADING:
    assert found.headings == 1


@pytest.mark.parametrize('page', PAGES)
def test_links_anchors_and_images_resolve(page):
  missing = []
  for link in filter(None, parsed(page).links):
    url = urllib.parse.urlsplit(link)
    if url.scheme or url.netloc:
      continue
    path = urllib.parse.unquote(url.path)
    target = (SITE / page).parent / path if path else SITE / page
    if target.is_dir():
      target /= 'index.html'
    if not target.exists():
      missing.append(link)
    elif url.fragment and target.suffix == '.html':
      name = target.resolve().relative_to(SITE.resolve()).as_posix()
      anchors = parsed(name).anchors
      if urllib.parse.unquote(url.fragment) not in anchors:
        missing.append(link)
  assert not missing


@pytest.mark.parametrize('page', PAGES)
def test_no_markup_is_left_in_the_text(page):
  found = parsed(page)
  assert 'problematic' not in found.classes
  assert not re.search(r':[a-z]+:`|```|\]\(http', ' '.join(found.text))


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
  errors = [
    line
    for line in run.stderr.splitlines()
    if 'CONSOLE' in line and 'Uncaught' in line
  ]
  assert not errors
