"The page that holds a model: its engine against Python, in Node, and what one sees and touches, in a browser"
import json
import random
import re
import shutil
import subprocess

import numpy as np
import pytest
from commands import DEADLINE, ROOT

from mini_llm.bpe import Tokenizer
from mini_llm.engine.decoding import Decoder
from mini_llm.engine.layout import load_model, save_int8
from mini_llm.engine.splitting import LETTER, NUMBER, SPACE, char_classes
from mini_llm.gallery.inside import attention_maps
from mini_llm.gallery.watching import surprise, write
from mini_llm.generate import Sampling, generate, generate_ids
from mini_llm.gpt import GPT
from mini_llm.regex_split import CL100K_PATTERN, GPT4_PATTERN, split
from mini_llm.workshop.page import ask_page, js_pattern, tokenizer_facts, write_page
from mini_llm.workshop.run import Run

BOOK, BEGIN = ROOT/'models'/'quijote', 'En un lugar de la Mancha'
CERVANTES = (ROOT/'datasets'/'cervantes.txt').read_text('utf-8')


def node(*args, **kwargs):
    "What Node answers, if it is here"
    if not shutil.which('node'): pytest.skip('no Node on this machine')
    args = ['node', *map(str, args)]
    done = subprocess.run(args, capture_output=True, text=True, encoding='utf-8', timeout=DEADLINE, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(page, *questions):
    if not shutil.which('node'): pytest.skip('no Node on this machine')
    return ask_page(page, *questions)


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp('page')/'quijote.html'
    write_page(BOOK, path, prompt=BEGIN)
    return path


@pytest.fixture(scope='module')
def tok(): return Run(BOOK).tokenizer


@pytest.fixture(scope='module')
def decoder(): return Decoder(BOOK, 'int8')


def test_engine_by_itself(): node('--test', ROOT/'tests'/'browser'/'engine.test.js')


def test_page_is_small(page):
    n = sum(p.numel() for p in GPT.load(BOOK).parameters())
    assert page.stat().st_size < 1.5*n + 200_000


def test_larger_model_is_kept_in_eight_bits(tmp_path):
    "What lies on the shelf is small, names no other machine's folders, and its page writes what it writes"
    shelf = ROOT/'models'/'cervantes'
    files = [p for p in shelf.iterdir() if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 6_000_000
    for p in (p for p in files if p.suffix in ('.json', '.jsonl', '.md')):
        assert not re.search('"/|/(work|tmp|home|root)/', p.read_text('utf-8')), p
    run, n = Run(shelf), sum(v.size for v in load_model(shelf)[1].values())
    assert f'{n:,} parameters' in (shelf/'README.md').read_text('utf-8')
    write_page(run, tmp_path/'p.html')
    assert (tmp_path/'p.html').stat().st_size < 1.5*n + 200_000
    tok, whole, eight = run.tokenizer, Decoder(shelf), Decoder(shelf, 'int8')
    want = ids_of(whole, tok, BEGIN, 100, temperature=0)
    assert want == ids_of(eight, tok, BEGIN, 100, temperature=0)
    assert ask(tmp_path/'p.html', ['write', BEGIN, 100, dict(temperature=0), 0])[0] == want


# The same as Python

def nasty(n, seed=0):
    "Texts of everything there is, with what splits and what does not"
    rnd = random.Random(seed)
    kinds = (lambda: rnd.randrange(0xd800), lambda: rnd.randrange(0xe000, 0x110000), lambda: rnd.randrange(128),
             lambda: ord(rnd.choice(" \n\r\t'sSſtldLD\u00a0\u0085\u2028\ufeff\u0301\u200d12ñ")))
    return [''.join(chr(rnd.choice(kinds)()) for _ in range(rnd.randrange(40))) for _ in range(n)]


def test_ids_of_any_text(page, tok, record_property):
    texts = nasty(1500) + ['', 'ab'*5000 + ' '*99 + '\n'*9, CERVANTES[:50_000]]
    record_property('tried', len(texts))
    for text, ids in zip(texts, ask(page, *(['encode', o] for o in texts)), strict=True):
        assert ids == tok.encode(text).tolist(), ascii(text[:99])


def test_every_letter_and_digit_is_split_as_in_python(page, tok):
    "Beside a letter, a digit and a space, each code point shows its class; higher up there are no letters and digits"
    chars = [chr(i) for i in range(0x34000) if not 0xd800 <= i < 0xe000]
    texts = [''.join(f'a{c}1 {c}' for c in chars[i:i+4096]) for i in range(0, len(chars), 4096)]
    assert not np.isin(char_classes()[0x34000:], (LETTER, NUMBER, SPACE)).any()
    assert ask(page, *(['encode', o] for o in texts)) == [tok.encode(o).tolist() for o in texts]


@pytest.mark.parametrize('pattern', [GPT4_PATTERN, CL100K_PATTERN])
def test_split_of_both_patterns(pattern, tmp_path):
    "Each chunk as its ids, by a tokenizer that joins nothing but whole chunks"
    texts = [*nasty(1000, 1), 'a\n  ', ' \n \n', "'\u017fx'LL'Ve", '1234567', '  a', '\t\t\n\n b']
    (tmp_path/'p.json').write_text(json.dumps([js_pattern(pattern), texts]), 'utf-8')
    code = '''const [p, texts] = JSON.parse(require('fs').readFileSync(process.argv[1], 'utf8'))
    console.log(JSON.stringify(texts.map(t => t.match(new RegExp(p, 'gu')) ?? [])))'''
    for text, chunks in zip(texts, json.loads(node('-e', code, tmp_path/'p.json')), strict=True):
        assert chunks == split(text, pattern), ascii(text)


def test_another_pattern_is_refused():
    with pytest.raises(ValueError, match='GPT4_PATTERN and CL100K_PATTERN'):
        tokenizer_facts(Tokenizer.train('abc', 256, pattern=r'\S+|\s+'))


def test_text_of_any_ids(page, tok):
    rnd = random.Random(1)
    lists = [[rnd.randrange(rnd.choice((256, tok.n_vocab))) for _ in range(rnd.randrange(30))] for _ in range(1000)]
    texts, pieces = (ask(page, *([how, o] for o in lists)) for how in ('decode', 'pieces'))
    assert texts == [tok.decode(o) for o in lists] == [''.join(o) for o in pieces]


def test_random_numbers(page):
    seeds = [0, 1, 2**32 - 1, 2**32, 12345678901234567890, 2**160 + 7]
    for seed, xs in zip(seeds, ask(page, *(['uniform', str(s), 9] for s in seeds))):
        assert xs == np.random.default_rng(seed).random(9).tolist()


def ids_of(decoder, tok, prompt, n, **how):
    return list(generate_ids(decoder, tok.encode(prompt or '\n'), n, end=range(tok.vocab_size, tok.n_vocab), **how))


def knobs(s): return dict(temperature=s.temperature, topK=s.top_k, topP=s.top_p, minP=s.min_p)


SETTINGS = [Sampling(0), Sampling(), Sampling(1, top_p=1), Sampling(.7, 5, .8), Sampling(1.5, min_p=.1),
            Sampling(2, 3, 1, .3), Sampling(1, top_p=0), Sampling(.01), Sampling(1, 10, .5, .2)]


def test_distributions(page):
    rng = np.random.default_rng(0)
    cases = [(np.round(rng.normal(size=50)*4, d), s) for s in SETTINGS for d in (0, 9)]     # with ties, and without
    for (x, s), (ids, probs) in zip(cases, ask(page, *(['candidates', x.tolist(), knobs(s)] for x, s in cases))):
        want_ids, want = s.candidates(x, [])
        assert ids == want_ids.tolist(), s
        np.testing.assert_allclose(probs, want, rtol=1e-12)


def test_scores(page, tok, decoder):
    ids = tok.encode(BEGIN + ', de cuyo nombre no quiero acordarme').tolist()
    want = decoder.feed([ids], decoder.new_cache(), every=True)
    np.testing.assert_allclose(ask(page, ['scores', ids])[0], want, atol=1e-4)


def test_attention_maps(page, tok, tmp_path):
    ids = tok.encode(BEGIN + ' vivía un hidalgo').tolist()
    save_int8(tmp_path, *load_model(BOOK))
    maps = attention_maps(GPT.load(tmp_path), ids).numpy()
    for layer, heads in enumerate(ask(page, ['looks', ids])[0]):
        for head, rows in enumerate(heads):
            for i, row in enumerate(rows): np.testing.assert_allclose(row, maps[layer, head, i, :i+1], atol=1e-4)


def test_greedy_text_past_the_window(page, tok, decoder):
    want = ids_of(decoder, tok, BEGIN, 300, temperature=0)
    assert ask(page, ['write', BEGIN, 300, dict(temperature=0), 0])[0] == want


@pytest.mark.parametrize('prompt', [BEGIN, '', '¿Qué 3,14 es? 😀\n'])
def test_same_seed_same_text(page, tok, decoder, prompt):
    cases = [(s, seed) for s in SETTINGS[1:6:2] for seed in (0, 7)]
    got = ask(page, *(['write', prompt, 60, knobs(s), seed] for s, seed in cases))
    for (s, seed), ids in zip(cases, got):
        assert ids == ids_of(decoder, tok, prompt, 60, seed=seed, sampling=s), (s, seed)


def test_branches(page, tok, decoder):
    "Another token in the place of one: what `Trace.branch` writes"
    trace = write(decoder, BEGIN, 40, seed=3, tokenizer=tok)
    other = trace.options[11][-1][0]
    want = trace.branch(11, other).ids
    assert ask(page, ['write', BEGIN, 40, knobs(Sampling()), 3, want[:12]])[0] == want[12:]


def test_surprise(page, tok, decoder):
    text = CERVANTES[-1500:]
    read = surprise(decoder, text, tokenizer=tok)
    bits = ask(page, ['surprise', text])[0]
    np.testing.assert_allclose(bits, read.bits, atol=1e-4)


# In a browser

@pytest.fixture(scope='module')
def visits(browser, page):
    "Open the page from disk; whatever it complains of or asks for is kept"
    def visit(view='', **context):
        tab = browser.new_context(**{'locale': 'en-GB', **context}).new_page()
        tab.said, tab.asked = [], []
        tab.on('console', lambda m: tab.said.append(m.text))
        tab.on('pageerror', lambda e: tab.said.append(str(e)))
        tab.on('request', lambda r: tab.asked.append(r.url.partition(':')[0]))
        tab.goto(page.as_uri() + view)
        finished(tab)
        return tab
    return visit


def finished(tab): tab.wait_for_selector('#status:text-matches("second|segundo|ended|terminado")', state='attached')


def texts(tab): return [o.text_content() for o in tab.locator('#texts .body').all()]


def fill_and_write(tab, prompt, **values):
    tab.fill('#prompt', prompt)
    for name, x in values.items(): tab.fill('#' + name, str(x))
    tab.click('#start')
    finished(tab)


def in_python(prompt, n=120, **fields): return prompt + generate(BOOK, prompt, n, precision='int8', **fields)


def test_page_writes_what_python_writes_and_asks_for_nothing(visits):
    tab = visits()
    assert texts(tab) == [in_python(BEGIN, seed=1)]
    fill_and_write(tab, 'Sancho', temperature=0, most=60)
    assert texts(tab) == [in_python('Sancho', 60, temperature=0)]
    fill_and_write(tab, 'Sancho', temperature=1.2, topK=9, seed=7)
    assert texts(tab) == [in_python('Sancho', 60, temperature=1.2, top_k=9, seed=7)]
    assert tab.said == [] and set(tab.asked) <= {'file', 'blob', 'data'}


def test_branches_by_mouse(visits, tok, decoder):
    tab, trace = visits(), write(decoder, BEGIN, 120, seed=1, tokenizer=tok)
    tab.locator('#texts .token').nth(5).click()
    name = tab.locator('#options .rows button:not(.chosen) .name').first.text_content()
    tab.locator('#options .rows button:not(.chosen)').first.click()
    finished(tab)
    first, second = texts(tab)
    other = next(i for i, _ in trace.options[5] if i != trace.ids[5])
    assert [first, second] == [BEGIN + o.text for o in (trace, trace.branch(5, other))]
    assert tab.locator('.fork').text_content().strip() == name.replace('·', ' ').strip()
    assert tab.locator('#texts h2').nth(1).text_content().startswith('Text 2: like text 1')
    tab.click('.remove:visible')
    assert texts(tab) == [first]
    assert tab.said == []


def test_branches_by_keyboard(visits):
    tab = visits()
    tab.focus('#start')
    for _ in range(20):
        tab.keyboard.press('Tab')
        if tab.locator('.token:focus').count(): break
    for _ in range(3): tab.keyboard.press('ArrowRight')
    assert tab.locator('#texts .token').nth(3).get_attribute('class').split() == ['token', 'on']
    tab.keyboard.press('Enter')
    tab.keyboard.press('ArrowDown')
    if tab.locator('#options .chosen:focus').count(): tab.keyboard.press('ArrowDown')
    tab.keyboard.press('Enter')
    finished(tab)
    assert len(texts(tab)) == 2 and tab.locator('.fork').count() == 1
    assert tab.said == []


def test_what_is_typed_stays_text(visits):
    tab, evil = visits(), '<img src=x onerror=alert(1)><script>alert(2)</script>'
    tab.on('dialog', lambda d: pytest.fail(d.message))
    fill_and_write(tab, evil)
    assert texts(tab)[0].startswith(evil)
    for view in 'tokens', 'looks', 'surprise':
        tab.click(f'#tab-{view}')
        tab.fill('#text', evil)
        tab.wait_for_selector(f'#view-{view} .token >> nth=12')
    tab.wait_for_timeout(300)
    assert tab.locator('img').count() == 0 and tab.locator('script').count() == 4
    assert tab.said == [] and set(tab.asked) <= {'file', 'blob', 'data'}


def test_views_of_ones_own_text(visits, tok, decoder):
    tab, text = visits(locale='es-ES'), 'Don Quijote de la Mancha, el año 1605'
    assert tab.locator('#start').text_content() == 'Escribir' and tab.locator('html').get_attribute('lang') == 'es'
    tab.click('#language')
    tab.click('#tab-tokens')
    tab.fill('#text', text)
    ids = tok.encode(text).tolist()
    tab.wait_for_selector(f'#view-tokens .sum:has-text("{len(ids)} tokens, {len(text.encode())} bytes")')
    tab.click('#tab-surprise')
    bits = surprise(decoder, text, tokenizer=tok).bits_per_byte
    tab.wait_for_selector(f'#view-surprise .sum:has-text("{bits:.2f} bits per byte")')
    tab.click('#tab-looks')
    tab.locator('#view-looks .token').nth(4).click()
    assert tab.locator('#heads button').count() == 8 and tab.locator('#view-looks .later').count() == len(ids) - 5
    assert 'looks at' in tab.locator('#view-looks .note').text_content()
    assert tab.said == []


@pytest.mark.parametrize('view', ['', '#tokens', '#looks', '#surprise'])
def test_fits_a_phone(visits, view):
    tab = visits(view, viewport=dict(width=360, height=740), has_touch=True)
    assert tab.locator('html').evaluate('e => e.scrollWidth') == 360
    for o in tab.locator('button:visible').all(): assert o.text_content().strip() or o.get_attribute('aria-label')


def test_links_lead_to_the_chapters_of_a_site(tmp_path):
    write_page(BOOK, tmp_path/'p.html', prompt='</script><b>', book='./')
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', (tmp_path/'p.html').read_text('utf-8'))[1])
    names = {re.sub(r'^\d+_', '', p.stem) + '.html' for p in (ROOT/'nbs').glob('0*.ipynb')}
    assert facts['prompt'] == '</script><b>' and facts['book'] == './'
    assert {o['page'] for o in facts['chapters'].values()} <= names
