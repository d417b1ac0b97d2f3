"Looking at a model: the numbers are the model's, every text is shown whole and inert, and notes open in a browser"
import json
import math
import os
import random
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from commands import EVIL, ROOT
import torch

from mini_llm.bpe import Tokenizer
from mini_llm.engine.decoding import Decoder
from mini_llm.generate import generate
from mini_llm.gpt import GPT, GPTConfig
from mini_llm.gallery.watching import Reading, surprise, turn_knobs, watch, weigh, write
from mini_llm.gallery.drawing import visible
from mini_llm.train import evaluate

@pytest.fixture(scope='module')
def tok():
    return Tokenizer(Tokenizer.load(ROOT / 'tokenizer_models/cervantes1024.model').vocab)  # without special tokens


@pytest.fixture(scope='module')
def model(tok):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=tok.n_vocab, n_layer=2, n_head=2, n_embd=64, context_length=32))
    with torch.no_grad():
        for p in model.parameters(): p.add_(.1*torch.randn_like(p))      # an opinion about everything
    return model.eval()


@pytest.fixture(scope='module')
def decoder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp('model')
    model.save(folder)
    return Decoder(folder)


@pytest.fixture(scope='module')
def text(): return (ROOT/'datasets/cervantes.txt').read_text('utf-8')


class Page(HTMLParser):
    "What a browser would make of a piece of HTML: tags, attributes, notes, and the text outside notes"
    def __init__(self, html):
        super().__init__()
        self.text, self.notes, self.tags, self.names, self.open = '', [], set(), set(), []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}
        if dict(attrs).get('role') == 'note': self.notes.append('')
        if tag != 'wbr': self.open.append((tag, dict(attrs).get('role')))

    def handle_endtag(self, tag): assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if any(role for _, role in self.open): self.notes[-1] += data
        elif self.open[-1][0] != 'style': self.text += data


@pytest.mark.parametrize('n', [1, 2, 32, 33, 34, 64, 65, 97, 1000])
def test_surprise_sums_to_what_evaluation_says(model, decoder, tok, text, n):
    ids = tok.encode(text)[:n]
    n_bytes = len(tok.decode_bytes(ids))
    for m in model, decoder:
        reading = surprise(m, ids, tok)
        assert len(reading.bits) == len(reading.options) == n and reading.bits[0] == 0
        if n > 1: assert reading.bits_per_byte == pytest.approx(evaluate(model, ids, n_bytes), rel=1e-4)


def test_surprise_is_minus_log2_of_the_softmax(model, decoder, tok, text):
    ids = tok.encode(text)[:33].astype(np.int64)
    with torch.no_grad(): logs = model(torch.tensor(ids[None, :-1]))[0].log_softmax(-1)
    reading = surprise(decoder, ids, tok, n=7)
    assert reading.bits[1:] == pytest.approx(-logs[range(32), ids[1:]].numpy() / math.log(2), rel=1e-3)
    values, top = logs.exp().topk(7)
    for options, i, row, p in zip(reading.options[1:], ids[1:], top.tolist(), values.numpy(), strict=True):
        assert [j for j, _ in options[:7]] == row and [q for _, q in options[:7]] == pytest.approx(p, rel=1e-3)
        assert len(options) == 7 + (i not in row) and dict(options)[i] > 0


def test_a_model_in_training_stays_in_training(model, tok):
    model.train()
    surprise(model, 'Sancho', tok)
    assert model.training
    model.eval()


def test_bits_of_impossible_and_sure_tokens():
    bits, options = weigh([0, 1], [[0., -np.inf], [1e4, 0.]], n=1)
    assert bits[0] == 0 and bits[1] == np.inf and options == [[(0, 1.)], [(0, 1.), (1, 0.)]]


@pytest.mark.parametrize('text', EVIL)
def test_any_text_is_shown_whole_and_inert(decoder, tok, text):
    reading = surprise(decoder, text, tok)
    html = reading._repr_html_()
    page = Page(html)
    assert reading.text == text and not page.open and len(page.notes) == len(reading.ids)
    assert page.tags <= {'style', 'div', 'span', 'b', 'wbr'} and page.names <= {
        'class',
        'style',
        'tabindex',
        'role',
        'hidden',
    }
    shown = ''.join(visible(b).replace('↵', '↵\n').replace('·', ' ') for b in reading.pieces)
    assert page.text.replace('·', ' ').startswith(shown)
    assert 'url(' not in html and '\x1b' not in html + repr(reading) and '\n' not in repr(reading)


def test_any_ids_are_shown(decoder, tok):
    rng = random.Random(0)
    for n in range(0, 60, 7):
        ids = rng.choices(range(tok.n_vocab), k=n)
        reading = surprise(decoder, ids, tok)
        assert reading.ids == ids and len(Page(reading._repr_html_()).notes) == n


def test_notes_name_every_option_and_mark_the_token_itself(tok):
    reading = Reading(tok, [60, 195], [1., 30.], [[(60, .5), (38, .25)], [(32, .9), (195, 1e-9)]], '<p>')
    assert Page(reading._repr_html_()).notes == ['1.0 bits: < 50.0% | & 25.0%', '30.0 bits: · 90.0% | \\xc3 <0.1%']
    assert '<b>&lt; 50.0%</b>' in reading._note(0) and '<b>\\xc3 &lt;0.1%</b>' in reading._note(1)
    assert '&lt;p&gt;</span>' in reading._repr_html_()


@pytest.mark.parametrize(
    'settings', [{}, dict(temperature=0), dict(top_k=3, repetition_penalty=1.3), dict(temperature=2, top_p=1)]
)
def test_writing_is_generating(decoder, tok, settings):
    for prompt in ('En un lugar', '', 'Sancho ' * 40):                   # the last is longer than the window
        trace = write(decoder, prompt, 80, seed=5, tokenizer=tok, **settings)
        assert trace.text == generate(decoder, prompt, 80, seed=5, tokenizer=tok, **settings) and len(trace.ids) == 80


def test_a_special_token_ends_the_text(decoder, tok):
    trace = write(decoder, 'Sancho', 30, seed=3, tokenizer=tok)
    ended = Tokenizer(tok.vocab[:-1], special_tokens=['<|endoftext|>'])
    branch = write(decoder, 'Sancho', 30, seed=3, tokenizer=ended).branch(0, 1023)
    assert branch.ids == [] and branch.text == '' and Page(branch._repr_html_()).text.startswith('Sancho')
    assert write(decoder, 'Sancho', 30, seed=3, tokenizer=ended, given=[*trace.ids[:4], 1023]).ids == trace.ids[:4]


def test_branches(decoder, tok):
    trace = write(decoder, 'En un lugar', 50, seed=3, tokenizer=tok, temperature=1.2)
    for k in (0, 7, 49):
        other = trace.branch(k, trace.options[k][-2][0])
        assert other.ids[:k] == trace.ids[:k] and other.ids[k] == trace.options[k][-2][0] and len(other.ids) == 50
        assert list(other.bits[:k]) == list(trace.bits[:k])              # the same tokens cost the same
        assert other.ids == trace.branch(k, other.ids[k]).ids and trace.branch(k, trace.ids[k]).ids == trace.ids
        assert other.branch(k, trace.ids[k]).ids == trace.ids            # and back
    twice = trace.branch(10, 97).branch(20, 98)
    assert twice.ids[:10] == trace.ids[:10] and (twice.ids[10], twice.ids[20]) == (97, 98)
    assert trace.branch(45, ' una palabra larguísima que no cabe').ids[:45] == trace.ids[:45]
    assert len(trace.branch(45, ' una palabra larguísima que no cabe').ids) == 50
    for k in (-1, 50):
        with pytest.raises(ValueError, match=f'no token {k}'): trace.branch(k, 97)
    with pytest.raises(ValueError, match='unknown token id'): trace.branch(0, 10**6)


def test_readings_of_written_text_agree(decoder, tok):
    trace = write(decoder, 'En un', 20, seed=1, tokenizer=tok)
    prompt = tok.encode('En un').tolist()
    again = surprise(decoder, prompt + trace.ids, tok)
    assert trace.bits == pytest.approx(again.bits[len(prompt):], rel=1e-3)


@pytest.fixture
def notebook():
    "As if this were the kernel of a notebook"
    from IPython.core.interactiveshell import InteractiveShell
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def test_watching_ends_with_the_whole_text_even_if_interrupted(decoder, tok, monkeypatch, notebook):
    from IPython.utils.capture import capture_output
    import mini_llm.gallery.watching
    def stopped(*args, **kwargs):
        yield 'Sancho'
        raise KeyboardInterrupt
    with capture_output() as seen: watch(decoder, 'En un', 30, seed=1, tokenizer=tok)
    assert seen.outputs[-1].data['text/plain'] == 'En un' + generate(decoder, 'En un', 30, seed=1, tokenizer=tok)
    monkeypatch.setattr(mini_llm.gallery.watching, 'stream', stopped)
    with capture_output() as seen, pytest.raises(KeyboardInterrupt): watch(decoder, '')
    assert seen.outputs[-1].data['text/plain'] == 'Sancho'


def test_watching_outside_a_notebook_prints(decoder, tok, capsys):
    watch(decoder, 'En un', 30, seed=1, tokenizer=tok)
    assert capsys.readouterr().out == 'En un' + generate(decoder, 'En un', 30, seed=1, tokenizer=tok) + '\n'


@pytest.mark.parametrize(
    'name,value', [('temperature', 0.3), ('top_k', 2), ('top_p', 0.1), ('min_p', 0.9), ('repetition_penalty', 2.0)]
)
def test_every_slider_moves_the_bars(decoder, tok, name, value):
    pytest.importorskip('ipywidgets')
    knobs = turn_knobs(decoder, 'Sancho Sancho', tok)
    slider, picture = knobs.sliders[name], knobs.picture
    def bars(): return [o.get_height() for o in knobs.figure.axes[0].patches]
    before, png = bars(), picture.value
    slider.value = value
    assert bars() != before and picture.value != png and png[:4] == b'\x89PNG'
    for o in knobs.sliders.values():                                     # the ends of every slider are allowed settings
        for end in (o.min, o.max): o.value = end


@pytest.mark.parametrize(
    'act', [lambda m, t: turn_knobs(m, 'x', t), lambda m, t: write(m, 'x', 3, seed=1, tokenizer=t).explore()]
)
def test_without_ipywidgets_a_word_about_it(decoder, tok, monkeypatch, act):
    monkeypatch.setitem(sys.modules, 'ipywidgets', None)
    with pytest.raises(ImportError, match='pip install ipywidgets'): act(decoder, tok)


def test_clicking_through_branches(decoder, tok):
    pytest.importorskip('ipywidgets')
    trace = write(decoder, '<b>En un', 12, seed=2, tokenizer=tok)
    view = trace.explore()
    prompt, words, options, back = view.box.children
    assert '&lt;b&gt;' in prompt.value and not options.children and back.disabled
    for k in (3, 0):
        before = view.trace
        words.children[k].click()
        assert [o.description.rsplit(' ', 1)[0] for o in options.children] == [
            visible(tok.token_bytes(i)) for i, _ in before.options[k]
        ]
        options.children[-1].click()
        assert view.trace.ids == before.branch(k, before.options[k][-1][0]).ids
        assert [o.description for o in words.children] == [visible(b) for b in view.trace.pieces]
    back.click()
    words.children[5].click()
    assert words.children[5].style.font_weight == 'bold' and options.children
    back.click()
    assert view.trace is trace and not options.children and back.disabled


def test_stored_displays_load_nothing():
    nb = json.loads((ROOT/'nbs/gallery/watching.ipynb').read_text('utf-8'))
    shown = [
        ''.join(o['data']['text/html'])
        for c in nb['cells']
        for o in c.get('outputs', [])
        if 'text/html' in o.get('data', {})
    ]
    assert shown and all(Page(o).tags <= {'style', 'div', 'span', 'b', 'wbr'} for o in shown)
    assert 'widget' not in ''.join(json.dumps(c.get('outputs', [])) for c in nb['cells'])


LIVE = """
from mini_llm.gallery.watching import turn_knobs, write
knobs = turn_knobs('models/quijote', 'Sancho')
display(knobs, write('models/quijote', 'Sancho', 3, seed=1).explore())
print(knobs.sliders['temperature'].model_id, knobs.picture.model_id)
"""
WIDGET = 'application/vnd.jupyter.widget-view+json'


def test_widgets_live_in_a_kernel_beside_a_still(root):
    "A kernel sends the widget and what stands for it elsewhere; a slider that the browser moves brings a new picture"
    pytest.importorskip('ipywidgets')
    from jupyter_client.manager import start_new_kernel
    manager, client = start_new_kernel(cwd=str(root), env={**os.environ, 'PYTHONPATH': str(root)})
    try:
        sent = []
        client.execute_interactive(LIVE, timeout=60, output_hook=sent.append)
        shown = [set(o['content']['data']) for o in sent if o['msg_type'] == 'display_data']
        assert shown == [{WIDGET, still, 'text/plain'} for still in ('image/png', 'text/html')]
        slider, picture = next(o['content']['text'] for o in sent if o['msg_type'] == 'stream').split()
        move = dict(method='update', state=dict(value=.2), buffer_paths=[])
        client.shell_channel.send(client.session.msg('comm_msg', dict(comm_id=slider, data=move)))
        answer = {}
        while answer.get('comm_id') != picture or not answer['data']['buffer_paths']:
            answer = (message := client.get_iopub_msg(timeout=30))['content']
        assert bytes(message['buffers'][0])[:4] == b'\x89PNG'
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.parametrize('colours', ['', 'body{background:#111;color:#ddd}', '[hidden]{display:none!important}'])
def test_browser_shows_a_note_under_the_mouse_and_at_the_focus(browser, tok, colours):
    ids = tok.encode('Dijo <b>(no)</b> & calló, ' + 'que no hay camino tan llano ' * 12).tolist()
    reading = Reading(
        tok, ids, [float(k % 12) for k in range(len(ids))], [[(i, 0.5), (60, 0.25), (195, 0.1)] for i in ids], 'a <i> '
    )
    page = browser.new_page(viewport=dict(width=500, height=600))
    page.set_content(f'<!doctype html><style>{colours}</style>{reading._repr_html_()}')
    tokens, notes = page.locator('.reading [tabindex]'), page.locator('[role=note]:visible')
    assert tokens.count() == len(ids) and notes.count() == 0
    assert page.locator('.reading').inner_text().startswith('a <i> Dijo <b>(no)</b> & calló, que no')
    for k in (2, 5, len(ids)-1):
        tokens.nth(k).hover()
        assert notes.count() == 1
        assert notes.inner_text() == Page(reading._repr_html_()).notes[k] and f'{k % 12}.0 bits' in notes.inner_text()
        note, token = notes.bounding_box(), tokens.nth(k).bounding_box()
        assert note['x'] >= 0 and note['x'] + note['width'] <= 500 and note['y'] >= token['y'] + token['height'] - 4
    page.mouse.move(0, 599)
    assert notes.count() == 0
    tokens.nth(1).focus()
    page.keyboard.press('Tab')
    assert notes.inner_text() == Page(reading._repr_html_()).notes[2]
    page.close()


def test_browser_breaks_lines_and_overflows_nowhere(browser, tok):
    ids = tok.encode('ñ日x' * 200 + ' ' + 'palabra ' * 50 + '\n\nfin').tolist()
    page = browser.new_page(viewport=dict(width=400, height=600))
    page.set_content('<!doctype html>' + Reading(tok, ids, [9.]*len(ids), [[(i, .1)] for i in ids])._repr_html_())
    assert page.evaluate('document.documentElement.scrollWidth') <= 400
    page.close()


def test_watching_without_ipython_prints(decoder, tok, tmp_path):
    "In a process that cannot import it"
    tok.save(tmp_path/'t.model')
    decoder_of = f'from mini_llm.engine.decoding import Decoder; d = Decoder({str(tmp_path)!r})'
    model = GPT(GPTConfig(vocab_size=tok.n_vocab, n_layer=1, n_head=1, n_embd=16, context_length=8))
    model.save(tmp_path)
    code = f"""import sys
sys.modules['IPython'] = None
{decoder_of}
from mini_llm.bpe import Tokenizer
from mini_llm.gallery.watching import watch
watch(d, 'Sancho', 3, seed=1, tokenizer=Tokenizer.load({str(tmp_path/'t.model')!r}))"""
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, timeout=300)
    assert res.returncode == 0 and res.stdout.startswith(b'Sancho'), res.stderr


def test_looking_that_fails_leaves_a_model_in_training(model, tok):
    model.train()
    for look in lambda: surprise(model, [10**6], tok), lambda: surprise(model, [0, 10**6, 3], tok):
        with pytest.raises((ValueError, IndexError)): look()
        assert model.training
    model.eval()
