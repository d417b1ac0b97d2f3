"What is copied from a corpus: equal to the plain search on any text, at any place, and shown without a loss"
import random
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from commands import ROOT
from hypothesis import given, settings, strategies as st

from mini_llm.gallery.copies import CorpusIndex, Copies, copies, plot_copies, sort_suffixes, words_of

matplotlib.use('agg')
import matplotlib.pyplot as plt  # noqa: E402

FEW = st.text(st.sampled_from('ab'), max_size=60)
ANY = st.text(st.characters(exclude_categories=[]), max_size=60)          # lone surrogates too
TEXTS = FEW | st.text(st.sampled_from('añ \n\0😀\u0301'), max_size=60) | ANY


def codes(text): return np.array([ord(c) for c in text], np.uint32)


def longest(output, corpus):
    "The longest match at each place, by trying"
    return [max(n for n in range(len(output)-i+1) if output[i:i+n] in corpus) for i in range(len(output))]


@settings(deadline=None, max_examples=300)
@given(TEXTS.filter(len))
def test_suffixes_are_sorted(text):
    order, rank = sort_suffixes(codes(text))
    assert order.tolist() == sorted(range(len(text)), key=lambda i: codes(text)[i:].tolist())
    assert rank[order].tolist() == list(range(1, len(text)+1)) and rank[len(text)] == 0


@settings(deadline=None, max_examples=300)
@given(TEXTS, TEXTS.filter(len))
def test_matches_are_the_longest_and_stand_where_they_are_said_to(output, corpus):
    lengths, starts = CorpusIndex(corpus).longest_matches(output)
    assert lengths.tolist() == longest(output, corpus)
    for i, (n, s) in enumerate(zip(lengths, starts)): assert not n or output[i:i+n] == corpus[s:s+n]


@settings(deadline=None, max_examples=300)
@given(TEXTS, TEXTS.filter(len), st.integers(1, 8))
def test_share_stretches_and_pieces_agree(output, corpus, least):
    seen = copies(output, corpus, least)
    windows = [i for i in range(len(output)-least+1) if output[i:i+least] in corpus]
    covered = {j for i in windows for j in range(i, i+least)}
    assert seen.share() == pytest.approx(len(covered) / max(1, len(output)))
    assert {j for i, e, _ in seen.stretches for j in range(i, e)} == covered
    assert all(e-i >= least and output[i:e] == corpus[s:s+e-i] for i, e, s in seen.stretches)
    assert ''.join(o for o, _ in seen.pieces) == output and all(o for o, _ in seen.pieces)
    assert sum(len(o) for o, s in seen.pieces if s) == len(covered)
    assert seen.longest in corpus and len(seen.longest) == max([0, *longest(output, corpus)])
    shares = [seen.share(k) for k in range(1, 12)]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize('unit', ['a', 'ab', 'abc' * 50, 'ñ😀'])
def test_repetition_does_no_harm(unit):
    text = unit * (400_000 // len(unit))
    order, rank = sort_suffixes(codes(text))
    k = len(unit)
    assert (np.diff(rank[order]) == 1).all() and (
        rank[: -k - 1] > rank[k:-1]
    ).all()  # the shorter of two that agree comes first
    seen = copies(text + text, text)
    assert seen.share() == 1 and seen.longest == text and seen.stretches[0][:2] == (0, len(text))


def test_the_corpus_itself_and_what_is_foreign_to_it():
    corpus = (ROOT/'datasets/cervantes.txt').read_text('utf-8')
    index = CorpusIndex(corpus)
    whole = copies(corpus, index)
    assert (whole.share(), whole.new_share, whole.stretches) == (1, 0, [(0, len(corpus), 0)])
    foreign = copies('我读书。' * 20, index)
    assert (foreign.share(1), foreign.longest, foreign.stretches) == (0, '', [])
    chance = random.Random(0)
    for _ in range(200):
        i, n = chance.randrange(len(corpus)-200), chance.randint(30, 200)
        found = copies('§' + corpus[i:i+n] + '§', index)
        assert [(a, b) for a, b, _ in found.stretches] == [(1, n+1)]


def test_output_that_is_empty_or_short():
    for output in '', 'a', 'uno':
        seen = copies(output, 'uno dos tres')
        assert (seen.stretches, seen.share()) == ([], 0)
        assert seen.summary.startswith(f'0% of {len(output)} characters') and repr(seen).startswith(output)


def test_words():
    assert words_of("L'été, 3 ÑANDÚES—y_todo") == ['l', 'été', 'ñandúes', 'y', 'todo']
    seen = copies('Sancho y el dragón, el Dragón', 'sancho, el y')
    assert seen.new_words == ['dragón', 'dragón'] and seen.new_share == 2/6


def test_mistakes_are_told():
    with pytest.raises(ValueError, match='the corpus is empty'): copies('a', '')
    for least in 0, -1, 2.5, '30':
        with pytest.raises(ValueError, match='must be a whole number of at least 1'):
            Copies('a', CorpusIndex('a'), least)


class Page(HTMLParser):
    "What a browser would make of a piece of HTML"
    def __init__(self, html):
        super().__init__()
        self.text, self.tags, self.attrs = '', set(), []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attrs += attrs

    def handle_data(self, data): self.text += data


@pytest.mark.parametrize(
    'evil', ['<script>alert(1)</script>', '"\'><img src=x onerror=alert(1)>', '&lt;b&gt;', '\n\n\t ñ']
)
def test_any_text_is_shown_whole_and_inert(evil):
    seen = copies(evil + ' nuevo ' + evil, evil + '\'"<i>', 3)
    page = Page(seen._repr_html_())
    assert page.text == seen.output + seen.summary and page.tags == {'div', 'span'}
    assert {name for name, _ in page.attrs} == {'title', 'style'}
    assert all(evil in value for name, value in page.attrs if name == 'title')


def test_plot_says_what_is_so():
    a, b = copies('uno dos', 'uno dos tres', 3), copies('', 'uno', 3)
    ax = plot_copies({'a': a, 'b': b}, most=9)
    assert [o.get_label() for o in ax.lines[:2]] == ['a', 'b']
    assert list(ax.lines[0].get_ydata()) == [100]*7 + [0]*2 and not any(ax.lines[1].get_ydata())
    assert plot_copies({'a': a}, ax=plt.subplots()[1]).get_ylabel() == 'copied, %'
    plt.close('all')
