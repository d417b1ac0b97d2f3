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

MODELS = {'quijote', 'cervantes'}


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


def test_every_notebook_and_every_module_has_a_page(site):
    nbs, package = ROOT/'nbs', ROOT/'mini_llm'
    names = {re.sub(r'^\d+_', '', p.stem) for p in nbs.glob('*.ipynb')}
    names |= {p.relative_to(nbs).with_suffix('').as_posix() for p in nbs.glob('*/*.ipynb')}
    modules = [p.relative_to(package).with_suffix('').parts for p in package.rglob('*.py') if p.stem[0] != '_']
    names |= {f'reference/{".".join(o)}' for o in modules} | {'reference/index'}
    assert {p.relative_to(site).with_suffix('').as_posix() for p in site.rglob('*.html')} == names | MODELS


def test_the_reference_shows_what_parameters_are(site):
    "Each exported name is there, with the comments of its source"
    text = re.sub(r'<.*?>', '', (site/'reference'/'bpe.html').read_text('utf-8'))
    for said in 'Tokenizer.train', 'vocab_size:int=1024, # Bytes and merges, at least 256', 'pattern:str=GPT4_PATTERN':
        assert said in text
    for module in (ROOT/'mini_llm').rglob('[!_]*.py'):
        offered = re.search(r'__all__ = \[(.*?)\]', module.read_text('utf-8'), re.DOTALL)[1]
        name = '.'.join(module.relative_to(ROOT/'mini_llm').with_suffix('').parts)
        text = (site/'reference'/f'{name}.html').read_text('utf-8')
        for o in re.findall(r"'(\w+)'", offered): assert f'id="{o}"' in text or f'#{o}"' in text, (name, o)


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
    assert found == {p.relative_to(site).as_posix() for p in site.rglob('*.html')} - {f'{o}.html' for o in MODELS}


def test_sidebar_has_a_section_for_each_room(site):
    page = (site/'engine'/'decoding.html').read_text('utf-8')
    section = r'<li class="sidebar-item sidebar-item-section">.*?<span class="menu-text">(.*?)</span>'
    sections = re.findall(section, page, re.DOTALL)
    assert sections == ['The road', 'The engine', 'The workshop', 'The gallery']
    pages = {p.relative_to(site).as_posix() for p in [*site.glob('*.html'), *site.glob('[!r]*/*.html')]}
    assert pages - {f'{o}.html' for o in MODELS} | {'reference/index.html'} <= {
        normpath('engine/' + o.partition('#')[0]) for o in Anchors(site/'engine'/'decoding.html').links}


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob('*.html'):
        elsewhere = [o for o in Anchors(page).loads if urlsplit(o).scheme not in ('', 'data')]
        assert not elsewhere, f'{page.name}: {elsewhere}'


@pytest.fixture
def page(browser):
    "A page that asks nobody but this machine, and complains of nothing"
    page, complaints = browser.new_page(), []
    page.on('console', lambda m: m.type in ('error', 'warning') and complaints.append((page.url, m.text)))
    page.on('pageerror', lambda e: complaints.append((page.url, str(e))))
    left = 'net::ERR_ABORTED'       # what was not yet there when the next page was opened
    page.on('requestfailed', lambda r: r.failure != left and complaints.append((page.url, r.url, r.failure)))
    asked = lambda r: urlsplit(r.url).hostname in ('127.0.0.1', None) or complaints.append((page.url, r.url))
    page.on('request', asked)
    yield page
    page.close()
    assert not complaints


def test_browser_opens_every_page(site, address, page):
    for path in sorted(site.rglob('*.html')):
        page.goto(address + path.relative_to(site).as_posix())
        assert page.inner_text('h1').strip(), path.name
        assert page.evaluate('[...document.images].every(o => o.complete && o.naturalWidth > 0)'), path.name
        sources = "[...document.querySelectorAll('math')].filter(o => o.textContent.includes('\\\\')).length"
        assert not page.evaluate(sources), path.name
        assert not page.locator('span.math').count(), f'{path.name}: a formula is shown as source'


def test_pages_fit_a_phone_and_the_dark(address, page):
    page.set_viewport_size(dict(width=390, height=844))
    page.emulate_media(color_scheme='dark')
    for name in 'index', 'attention', 'train', 'glossary', 'reference/bpe', 'gallery/bench':
        page.goto(address + f'{name}.html')
        assert page.evaluate('document.documentElement.scrollWidth') <= 390, name
        colour = page.evaluate('getComputedStyle(document.body).backgroundColor')
        assert max(map(int, re.findall(r'\d+', colour)[:3])) < 60, (name, colour)


FOUND = [('learning rate', ['glossary.html#training', 'train.html#how-large-a-step']), ('Mérge', ['bpe.html']),
         ('softmax', ['glossary.html#guesses', 'attention.html#scores-to-chances']),
         ('Tokenizer.train', ['reference/bpe.html#Tokenizer.train']), ('tokeniser', ['okeni'])]


def test_browser_finds_what_is_searched(address, page):
    "What holds all words, the best first; if nothing does, what is spelt alike"
    for term, wanted in FOUND:
        page.goto(address)
        page.get_by_placeholder('Search').first.fill(term)
        page.locator('a.search-result').first.wait_for()
        hits = [o.get_attribute('href') for o in page.locator('a.search-result').all()[:3]]
        for o in wanted: assert any(o in hit for hit in hits), (term, hits)


def test_next_and_previous_walk_the_road(address, page):
    road = ['index', 'regex_split', 'bpe', 'attention', 'gpt', 'train', 'generate']
    page.goto(address + 'index.html')
    for name in road[1:]:
        page.locator('.nav-page-next a').click()
        page.wait_for_url(f'**/{name}.html')
    for name in road[-2::-1]:
        page.locator('.nav-page-previous a').click()
        page.wait_for_url(f'**/{name}.html')


ANSWERS = [
    ('train', '04.1', '4.7', 'right'), ('train', '04.1', '6.785', 'in bits'), ('train', '04.4', '3/8, 5/8', 'right'),
    ('train', '04.4', '.5 .5', 'mean of means'), ('gpt', '03.1', '131,200 262,144 589,824 1,664 984,832', 'right'),
    ('regex_split', '00.1', r'—¡|Señor|!| | —|dijo| en| |160|5|.\n\n|Y', 'right'),
    ('regex_split', '00.4', 'spaces, line_break', 'right'), ('regex_split', '00.4', 'word', 'nothing can ask'),
    ('bpe', '01.1', '97 97 7; 97 98 3; 256 98 3', 'right'), ('bpe', '01.1', '97 98 6; 97 97 5; 97 256 5', 'overlap'),
    ('attention', '02.1', '1 0; .33 .67; 1 1.203', 'right'), ('generate', '05.3', '1906', 'right'),
    ('generate', '05.3', '12', 'count the tokens')]


@pytest.mark.parametrize('name', dict.fromkeys(o for o, *_ in ANSWERS))
def test_exercises_answer_on_the_page(address, page, name):
    page.goto(address + f'{name}.html')
    for number, answer, said in [o for n, *o in ANSWERS if n == name]:
        form = page.locator('form.exercise').filter(has_text=f'{number}, here')
        form.locator('input').fill(answer)
        form.locator('button').click()
        assert said in form.locator('output').inner_text(), (number, answer)


def test_the_model_writes_on_the_home_page(address, page):
    page.goto(address)
    home = page.frame_locator('iframe')
    home.locator('#texts .token').nth(20).wait_for()
    assert home.locator('textarea#prompt').input_value() == 'En un lugar de la Mancha'
    home.locator('#texts .token').nth(3).click()
    assert home.locator('#options').inner_text().count('%') >= 3
    home.locator('#view-write .what a').click()             # to a chapter, not in the frame but in its place
    page.wait_for_url('**/generate.html')
