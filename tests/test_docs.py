"The site: built as `make docs` builds it, every link checked, every page opened in a browser where there is one"
import functools
import http.server
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]


class Anchors(HTMLParser):
    "The ids of a page, and what it refers to"
    def __init__(self, page):
        super().__init__()
        self.ids, self.links, self.loads = set(), set(), set()
        self.feed(page.read_text('utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.add(attrs.get('id'))
        if tag == 'a' and attrs.get('href'): self.links.add(attrs['href'])
        elif attrs.get('href') or attrs.get('src'): self.loads.add(attrs.get('href') or attrs.get('src'))


@pytest.fixture(scope='module')
def site():
    "The folder of the site, built anew"
    run = subprocess.run([sys.executable, 'tools/docs.py'], cwd=ROOT, capture_output=True, text=True, encoding='utf-8')
    assert run.returncode == 0, run.stdout + run.stderr
    return ROOT/'_docs'


@pytest.fixture(scope='module')
def address(site):
    "Where the site is served, on this machine"
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()


def test_every_notebook_has_a_page(site):
    names = {re.sub(r'^\d+[a-z]?_', '', p.stem) for p in ROOT.glob('nbs/*.ipynb')}
    assert {p.stem for p in site.glob('*.html')} == names


def test_links_lead_somewhere(site):
    pages = {p.name: Anchors(p) for p in site.glob('*.html')}
    for name, page in pages.items():
        for url in page.links | page.loads:
            if (u := urlsplit(url)).scheme: continue
            target = unquote(u.path) or name
            assert (site/target).is_file() or target == './', f'{name}: {url}'
            assert not u.fragment or unquote(u.fragment) in pages[target].ids, f'{name}: {url}'


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.glob('*.html'):
        elsewhere = [o for o in Anchors(page).loads if urlsplit(o).scheme not in ('', 'data')]
        assert not elsewhere, f'{page.name}: {elsewhere}'


def test_browser_opens_every_page(site, address, browser):
    page, complaints = browser.new_page(), []
    page.on('console', lambda m: m.type in ('error', 'warning') and complaints.append((page.url, m.text)))
    page.on('pageerror', lambda e: complaints.append((page.url, str(e))))
    page.on('requestfailed', lambda r: complaints.append((page.url, r.url)))
    for path in sorted(site.glob('*.html')):
        page.goto(address + path.name, wait_until='networkidle')
        assert page.inner_text('h1').strip(), path.name
        assert page.evaluate('[...document.images].every(o => o.complete && o.naturalWidth > 0)'), path.name
        assert page.evaluate("[...document.querySelectorAll('math')].every(o => !o.textContent.includes('\\\\'))"), path.name
        assert not page.locator('span.math').count(), f'{path.name}: a formula is shown as source'
    assert not complaints


def test_browser_finds_what_is_searched(address, browser):
    page = browser.new_page()
    page.goto(address)
    page.get_by_placeholder('Search').first.click()
    page.keyboard.type('merge')
    page.wait_for_selector('a[href*="bpe.html"]:visible')
