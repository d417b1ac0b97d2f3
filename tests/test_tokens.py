"What is seen of tokens: every text survives being shown, nothing of it becomes markup, and the figures say what is so"
import json
import random
import warnings
from html.parser import HTMLParser

import matplotlib
import pytest
from commands import EVIL, ROOT

from mini_llm.bpe import Tokenizer
from mini_llm.gallery.bench import plot_speed
from mini_llm.gallery.tokens import TokenView, bytes_per_token, plot_merge_tree, plot_vocab_size, show_tokens, visible

matplotlib.use('agg')
import matplotlib.pyplot as plt  # noqa: E402

@pytest.fixture(scope='module')
def tok(): return Tokenizer.load(ROOT/'tokenizer_models/cervantes1024.model')


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


class Page(HTMLParser):
    "What a browser would make of a piece of HTML: tags, their attributes, the text"
    def __init__(self, html):
        super().__init__()
        self.text, self.tags, self.open, self.attrs = '', set(), [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attrs += attrs
        if tag not in ('br', 'wbr'): self.open.append(tag)

    def handle_endtag(self, tag): assert self.open.pop() == tag

    def handle_data(self, data): self.text += data


@pytest.mark.parametrize('text', EVIL)
def test_any_text_is_shown_whole_and_inert(tok, text):
    view = show_tokens(tok, text)
    page = Page(view._repr_html_())
    assert b''.join(view.pieces).decode() == text and view.ids == tok.encode(text).tolist()
    assert (
        page.tags <= {'div', 'span', 'br', 'wbr'}
        and {name for name, _ in page.attrs} <= {'title', 'style'}
        and not page.open
    )
    assert page.text.startswith(''.join(map(visible, view.pieces)))
    titles = [value for name, value in page.attrs if name == 'title']
    assert [bytes.fromhex(o.split(': ')[1]) for o in titles] == view.pieces
    assert 'url(' not in view._repr_html_() and '\x1b' not in repr(view) and '\n' not in repr(view)


def test_any_ids_are_shown(tok):
    rng = random.Random(0)
    for n in range(50):
        ids = rng.choices(range(tok.n_vocab), k=n)
        view = TokenView(tok, ids)
        assert view.ids == ids and b''.join(view.pieces) == tok.decode_bytes(ids)
        assert not Page(view._repr_html_()).open and view._repr_html_().isprintable()


def test_titles_say_id_place_and_bytes(tok):
    titles = [value for name, value in Page(show_tokens(tok, 'ü que')._repr_html_()).attrs if name == 'title']
    assert titles == ['id 195, bytes 0 to 1: c3', 'id 188, bytes 1 to 2: bc',
                      f"id {tok.vocab.index(b' que')}, bytes 2 to 6: 20 71 75 65"]


def test_neighbours_have_different_colours(tok):
    html = show_tokens(tok, 'que ' * 20)._repr_html_()
    colours = [
        value.split(';')[0] for name, value in Page(html).attrs if name == 'style' and value.startswith('background')
    ]
    assert len(colours) >= 20 and all(a != b for a, b in zip(colours, colours[1:]))


def test_stored_displays_load_nothing():
    nb = json.loads((ROOT/'nbs/gallery/tokens.ipynb').read_text('utf-8'))
    shown = [
        ''.join(o['data']['text/html'])
        for c in nb['cells']
        for o in c.get('outputs', [])
        if 'text/html' in o.get('data', {})
    ]
    assert shown and all(Page(o).tags <= {'div', 'span', 'br', 'wbr'} for o in shown)


@pytest.mark.parametrize(
    'word', ['', 'a', ' Quijote', 'acción', 'pingüino', ' encaballerado', '👩‍👧', 'dos palabras', '\n']
)
def test_merge_tree_has_every_byte_and_every_merge_above_its_parts(tok, word):
    ax = plot_merge_tree(tok, word)
    ax.figure.canvas.draw()
    bottom = sorted((o.get_position()[0], o.get_text()) for o in ax.texts if o.get_position()[1] == 0)
    assert [label for _, label in bottom] == [visible(bytes([b])) for b in word.encode()]
    for line in ax.lines:
        assert list(line.get_ydata()) == sorted(line.get_ydata()) and line.get_ydata()[0] < line.get_ydata()[1]
    tops = [o for o in ax.texts if o.get_bbox_patch().get_facecolor() != (1, 1, 1, 1)]
    assert [o.get_text() for o in tops] == [visible(tok.vocab[i]) for i in tok.encode(word)]
    numbers = [int(o.get_text().replace(',', '')) for o in ax.get_yticklabels()[1:]]
    merges = {visible(tok.vocab[255+n]) for n in numbers}
    assert numbers == sorted(numbers) and merges == {o.get_text() for o in ax.texts if o.get_position()[1] > 0}


def test_merge_tree_of_plain_bytes():
    ax = plot_merge_tree(Tokenizer([bytes([i]) for i in range(256)]), ' año')
    assert [o.get_text() for o in ax.texts] == ['·', 'a', r'\xc3', r'\xb1', 'o'] and not ax.lines


def test_bytes_per_token_uses_the_first_part_of_the_vocabulary(tok):
    text = (ROOT/'datasets/cervantes.txt').read_text('utf-8')[-20_000:]
    odd = Tokenizer(tok.vocab, pattern=r'[\s\S]', special_tokens=['<a>'])       # one character a chunk
    assert bytes_per_token(tok, text, [1024]) == [len(text.encode()) / len(tok.encode(text))]
    assert bytes_per_token(odd, text, [1024])[0] <= len(text.encode()) / len(text)
    values = bytes_per_token(tok, text, range(256, 1025, 64))
    assert values[0] == 1 and values == sorted(values)
    for bad in [255, 1025]:
        with pytest.raises(ValueError, match=f'a vocabulary of {bad} cannot'): bytes_per_token(tok, text, [bad])


def test_vocab_size_plot(tok):
    text = 'En un lugar de la Mancha, de cuyo nombre no quiero acordarme. ' * 3
    ax = plot_vocab_size(tok, {'a': text, 'b': text[:60]})
    assert [list(o.get_xdata()) for o in ax.lines] == [[256, 512, 1024]] * 2 and ax.get_xscale() == 'log'
    assert list(ax.lines[1].get_ydata()) == bytes_per_token(tok, text[:60], [256, 512, 1024])
    a, b, c = ax.lines[1].get_ydata()
    assert [o.get_text() for o in ax.texts] == [f'{b/a-1:+.0%}', f'{c/b-1:+.0%}']
    assert [o.get_text() for o in ax.get_xticklabels()] == ['256', '512', '1,024']
    assert plot_vocab_size(tok, text, [300, 256], ax).get_ylabel() == 'bytes per token'


@pytest.mark.parametrize('size', [256, 257, 300])
def test_small_vocabularies_are_drawn_without_a_warning(tok, size):
    small = Tokenizer(tok.vocab[:size])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for ax in plot_vocab_size(small, 'año que'), plot_merge_tree(small, ' que'): ax.figure.canvas.draw()


@pytest.mark.parametrize('path', sorted((ROOT/'benchmarks/results').glob('*.json')), ids=lambda p: p.stem)
def test_every_result_file_can_be_drawn(path):
    rows = [r for r in json.loads(path.read_text('utf-8'))['rows'] if r.get('ratio')]
    if not rows: pytest.skip('nothing to compare in this file')
    ax = plot_speed(path)
    ax.figure.canvas.draw()
    assert ax.get_xscale() == 'log' and [o.get_text() for o in ax.get_yticklabels()] == [r['work'] for r in rows]
    assert [o.get_x() + o.get_width() for o in ax.patches] == pytest.approx([r['ratio'] for r in rows])
    assert all(o.get_text().endswith(f"× {r['peer']}") for o, r in zip(ax.texts, rows))


def test_speed_plot_leaves_out_absolute_rows():
    rows = [
        dict(work='split', peer='regex', ratio=10, bar=12, aim=20),
        dict(work='memory', ratio=None, bar=800, aim=400),
        dict(work='decode', peer='tiktoken', ratio=2, bar=1, aim=3),
    ]
    ax = plot_speed(dict(rows=rows))
    assert len(ax.patches) == 2 and ax.get_legend() is None                  # and what a benchmark aims at is no result
    with pytest.raises(ValueError, match='nothing to compare'): plot_speed(dict(rows=rows[1:2]))
