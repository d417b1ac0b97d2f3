"The site: built as `make docs` builds it, every link checked, every page opened in a browser where there is one"
import functools
import http.server
import json
import re
import threading
from html.parser import HTMLParser
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit

import pytest
from commands import ROOT, begin, end



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
    code, out, err = end(begin('tools/docs.py', cwd=ROOT))
    assert code == 0, out + err
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
    nbs = ROOT/'nbs'
    names = {re.sub(r'^\d+_', '', p.name) for p in nbs.glob('*.ipynb')}
    names |= {p.relative_to(nbs).as_posix() for p in nbs.glob('*/*.ipynb')}
    assert {p.relative_to(site).with_suffix('.ipynb').as_posix() for p in site.rglob('*.html')} == names


def test_links_lead_somewhere(site):
    pages = {p.relative_to(site).as_posix(): Anchors(p) for p in site.rglob('*.html')}
    for name, page in pages.items():
        for url in page.links | page.loads:
            if (u := urlsplit(url)).scheme: continue
            target = normpath(join(dirname(name), unquote(u.path))) if u.path else name
            assert target == '.' or (site/target).is_file(), f'{name}: {url}'
            assert not u.fragment or unquote(u.fragment) in pages[target].ids, f'{name}: {url}'


def test_links_between_rooms_and_what_is_searched_name_the_pages(site):
    "A link to a notebook becomes one to its page, from a folder and into one; search finds pages by the same names"
    to_chapter, to_room = (Anchors(site/p).links for p in ('engine/decoding.html', 'index.html'))
    assert any(o.startswith('../gpt.html') for o in to_chapter) and any(o.startswith('engine/') for o in to_room)
    found = {o['href'].partition('#')[0] for o in json.loads((site/'search.json').read_text('utf-8'))}
    assert found == {p.relative_to(site).as_posix() for p in site.rglob('*.html')}


def test_sidebar_has_a_section_for_each_room(site):
    page = (site/'engine'/'decoding.html').read_text('utf-8')
    section = r'<li class="sidebar-item sidebar-item-section">.*?<span class="menu-text">(.*?)</span>'
    sections = re.findall(section, page, re.DOTALL)
    assert sections == ['The road', 'The engine', 'The workshop', 'The gallery']
    assert {p.relative_to(site).as_posix() for p in site.rglob('*.html')} <= {
        normpath('engine/' + o.partition('#')[0]) for o in Anchors(site/'engine'/'decoding.html').links}


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob('*.html'):
        elsewhere = [o for o in Anchors(page).loads if urlsplit(o).scheme not in ('', 'data')]
        assert not elsewhere, f'{page.name}: {elsewhere}'


def test_browser_opens_every_page(site, address, browser):
    page, complaints = browser.new_page(), []
    page.on('console', lambda m: m.type in ('error', 'warning') and complaints.append((page.url, m.text)))
    page.on('pageerror', lambda e: complaints.append((page.url, str(e))))
    page.on('requestfailed', lambda r: complaints.append((page.url, r.url)))
    for path in sorted(site.rglob('*.html')):
        page.goto(address + path.relative_to(site).as_posix(), wait_until='networkidle')
        assert page.inner_text('h1').strip(), path.name
        assert page.evaluate('[...document.images].every(o => o.complete && o.naturalWidth > 0)'), path.name
        sources = "[...document.querySelectorAll('math')].filter(o => o.textContent.includes('\\\\')).length"
        assert not page.evaluate(sources), path.name
        assert not page.locator('span.math').count(), f'{path.name}: a formula is shown as source'
    assert not complaints


def test_browser_finds_what_is_searched(address, browser):
    page = browser.new_page()
    page.goto(address)
    page.get_by_placeholder('Search').first.click()
    page.keyboard.type('merge')
    page.wait_for_selector('a[href*="bpe.html"]:visible')
