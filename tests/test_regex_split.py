"Splitting: nothing is lost, whatever the text, the chunks are those of another regex engine, and the table counts them"
import random
from collections import Counter

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings, strategies as st

from mini_llm.engine.splitting import ChunkTable, machine_blocks, with_room
from mini_llm.regex_split import (CL100K_PATTERN, FAST_PATTERNS, GPT4_PATTERN, check_pattern, chunk_blocks,
                                  chunk_ends, compile_pattern, split, split_regex)

examples = settings(max_examples=300, deadline=None, derandomize=True, database=None)
# The signs at the borders of the pattern, and letters and numbers on which all Unicode versions agree
BORDERS = list("aZñóÑß中яא9٣½' \t\n\r\u00a0\u2028.,;¿?¡!—-_\"()€😀")
BORDERS += ["'s", "'LL", "'d", '  ', '\r\n', '123', 'o\u0301']
border_text = st.lists(st.sampled_from(BORDERS), max_size=30).map(''.join)


@examples
@given(st.text(st.characters()))
@example('a\n  ')
@example('\ud800')
def test_chunks_joined_are_the_text(text):
    chunks = split(text)
    assert ''.join(chunks) == text
    assert all(chunks)


@examples
@given(border_text)
def test_chunks_are_those_of_oniguruma(text):
    tokenizers = pytest.importorskip('tokenizers')
    peer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(GPT4_PATTERN), 'isolated')
    assert split(text) == [chunk for chunk,_ in peer.pre_tokenize_str(text)]


@examples
@given(border_text)
def test_no_chunk_mixes_letters_with_numbers_or_line_breaks_with_words(text):
    for chunk in split(text):
        assert not (regex.search(r'\p{L}', chunk) and regex.search(r'[\p{N}\r\n]', chunk))
        assert len(regex.findall(r'\p{N}', chunk)) <= 3


@examples
@given(border_text, st.sampled_from([GPT4_PATTERN, CL100K_PATTERN]), st.integers(0, 5))
@example('a\n', CL100K_PATTERN, 1)
def test_text_with_lone_surrogates_splits_too(text, pattern, at):
    text = text[:at] + '\ud800' + text[at:] + '\udfff'
    assert split(text, pattern) == split_regex(text, pattern)


# Any pattern

@examples
@given(border_text, st.sampled_from([
    r'\p{L}+|[^ж]', r'(\p{L})+|(\P{L})', r'[\s\S]', r'|[\s\S]', r'\S+\s*|\s+', r'[^ñ]+|ñ\b|ñ\B|(?<=жж)ж']))
@example('aж', r'\p{P}|[^ж]')
def test_a_pattern_loses_nothing_or_says_where(text, pattern):
    for s in (text, text.replace('ñ', 'ж')):
        try: assert ''.join(split(s, pattern)) == s
        except ValueError as e:
            start = int(regex.search(r'at character (\d+);', str(e))[1])
            assert repr(s[start])[1:-1] in str(e)
            assert not any(m.start() <= start < m.end() for m in regex.finditer(pattern, s))
            assert ''.join(split(s[:start], pattern)) == s[:start]

@pytest.mark.parametrize('pattern, reason', [('(', 'missing )'), ('[', 'does not compile'), ('(?r).', 'backwards')])
def test_patterns_that_cannot_be_used(pattern, reason):
    with pytest.raises(ValueError, match=regex.escape(reason)): check_pattern(pattern)
    with pytest.raises(ValueError, match=regex.escape(reason)): split('text', pattern)

@pytest.mark.parametrize('pattern', [
    '', r'\p{L}+', r'\w+|\s+', r'a|', '.', r'[ -~\s]', r'[^\r]', r'\p{L}+|\P{L}(?!\n)', r'\S+|\s+$', r'[^—]',
    r'[^\u0301]', r'[^😀]', r'^[\s\S]', r'\P{Cn}'])
def test_patterns_that_drop_text_are_refused_at_once(pattern):
    with pytest.raises(ValueError, match='the pattern drops .* at character [0-9]+; add an alternative'):
        compile_pattern(pattern)
    with pytest.raises(ValueError, match='the pattern drops'): check_pattern(pattern)

@pytest.mark.parametrize('pattern', [None, 5, b'\\s+', ('a',)])
def test_a_pattern_is_a_text(pattern):
    for f in (compile_pattern, check_pattern):
        with pytest.raises(ValueError, match='a split pattern is a text'): f(pattern)
    for f in (split, split_regex, chunk_ends):
        with pytest.raises(ValueError, match='a split pattern is a text'): f('text', pattern)

def test_what_slips_through_is_refused_with_its_place():
    pattern = compile_pattern('[^ж]').pattern
    for f in (split, split_regex, chunk_ends):
        with pytest.raises(ValueError, match="drops 'жж' at character 3"): f('añбжжa', pattern)


# Blocks and the table

@examples
@given(border_text, st.sampled_from([GPT4_PATTERN, CL100K_PATTERN, r'\S+|\s+']), st.integers(1, 5))
def test_ends_are_those_of_the_chunks(text, pattern, size):
    chunks = [c.encode() for c in split_regex(text, pattern)]
    assert chunk_ends(text, pattern).tolist() == np.cumsum([len(c) for c in chunks]).tolist()
    blocks = list(chunk_blocks(text, pattern, size))
    assert [bytes(data[a:b]) for data,start,ends in blocks for a,b in zip([start, *ends], ends)] == chunks
    assert all(data.tobytes() == text.encode() for data,_,_ in blocks)

# What meets the border of a window of 64 bytes, or stops one
STRETCHES = BORDERS + ['palabra', 'después', '. ', ', ', ' ¿', '—¿', '1605', '²³', '٣٣٣٣', ' \n', '\n ', '    ', '\n\n',
                       'слово', '×÷', "'\u017f", 'a'*70, ' '*70, '1'*70, '!'*70, '\n'*70]

def all_ends(text, pattern, size, wide):
    blocks = machine_blocks(np.frombuffer(text.encode(), np.uint8), FAST_PATTERNS[pattern], size, wide)
    return [i for _,_,ends in blocks for i in ends.tolist()]

@pytest.mark.parametrize('wide', [False, True])
@pytest.mark.parametrize('pattern', [GPT4_PATTERN, CL100K_PATTERN])
@settings(examples, max_examples=150)
@given(st.lists(st.sampled_from(STRETCHES), min_size=20, max_size=200).map(''.join), st.sampled_from([1, 70, 8192]))
def test_ends_are_the_same_on_every_processor(pattern, wide, text, size):
    lengths = [len(c.encode()) for c in split_regex(text, pattern)]
    assert all_ends(text, pattern, size, wide) == np.cumsum(lengths).tolist()

@pytest.mark.parametrize('seed', range(10))
def test_sixty_four_bytes_at_once_are_as_one_at_a_time(seed):
    rng = random.Random(seed)
    for _ in range(200):
        few = rng.choices(STRETCHES, k=rng.choice([2, 5, 99]))
        text, pattern = ''.join(rng.choices(few, k=rng.randrange(150))), rng.choice(list(FAST_PATTERNS))
        assert all_ends(text, pattern, 8192, True) == all_ends(text, pattern, 8192, False)

def table_of(texts, **kwargs):
    table, numbers = ChunkTable(), []
    for text in texts:
        for block in chunk_blocks(text): numbers += table.number(*block, **kwargs).tolist()
    return table, numbers

# Lengths around 8, 16 and 24 bytes, where a chunk's key changes its form; same beginnings, ends and lengths
WORDS = (['a'*n for n in range(1, 40)] + ['b'*n + 'a' for n in range(1, 40)]
         + ['a'*n + 'b' + 'a'*n for n in range(1, 20)] + ['ñ'*n for n in range(1, 20)])

@examples
@given(st.lists(st.lists(st.sampled_from(WORDS + [' ', '\n', '1', 'a\0']), max_size=20).map('-'.join), max_size=5))
def test_the_table_numbers_chunks_as_they_come_and_counts_them(texts):
    chunks = [c.encode() for text in texts for c in split(text)]
    table,numbers = table_of(texts)
    counts = Counter(chunks) # in the order in which they first occur
    assert table.chunks == list(counts) and table.counts.tolist() == list(counts.values()) and len(table) == len(counts)
    assert [table.chunks[k] for k in numbers] == chunks

def test_chunks_that_end_in_zeros_are_different():
    data = np.frombuffer(b'\0' * 40 + b'a' + b'\0' * 40, np.uint8)
    pieces = [(a, b) for a in (0, 40) for b in range(a+1, a+33)] # of zeros, and of an a with zeros
    table, first = ChunkTable(), {}
    for a,b in pieces:
        k, = table.number(data, a, np.array([b]))
        assert k == first.setdefault(bytes(data[a:b]), len(first))
    assert table.chunks == list(first) and set(table.counts) == {1}

def test_a_table_grows_to_many_chunks():
    rng = random.Random(0)
    words = [f'{rng.randrange(10**6):x}-' * rng.choice([1, 1, 1, 5]) for _ in range(200_000)]
    data = np.frombuffer(''.join(words).encode(), np.uint8)
    ends = np.cumsum([len(w) for w in words])
    table = ChunkTable()
    starts = range(0, len(ends), 5000)
    numbers = np.concatenate([table.number(data, ends[i-1] if i else 0, ends[i:i+5000]) for i in starts])
    counts = Counter(words)
    assert table.chunks == [w.encode() for w in counts] and table.counts.tolist() == list(counts.values())
    assert np.array_equal(table.find(data, np.append(0, ends[:-1]), ends), numbers)

def test_chunks_with_one_key_are_told_apart():
    "Long chunks are known by a hash; with equal hashes the bytes decide"
    table, data = ChunkTable(), np.frombuffer(b'x'*20 + b'y'*20, np.uint8)
    table.number(data, 0, np.array([20]))
    table.held[:20] = ord('y') # now the x's hash leads to y's
    assert table.number(data, 0, np.array([20])).tolist() == [1]
    assert table.counts.tolist() == [1, 1]

def test_long_chunks_may_be_left_out():
    table,numbers = table_of(['abc de fghijkl mn'], longest=3)
    assert numbers == [0, 1, -1, 2] and table.chunks == [b'abc', b' de', b' mn']

def test_finding_adds_nothing():
    table,_ = table_of(['uno dos tres y cuatrocientoscuarentaycuatro'])
    data = np.frombuffer(b'uno dos seis y cuatrocientoscuarentaycuatro cuatrocientoscuarentaycinco', np.uint8)
    ends = chunk_ends(data.tobytes().decode())
    assert table.find(data, np.append(0, ends[:-1]), ends).tolist() == [0, 1, -1, 3, 4, -1]
    assert len(table) == 5 and table.counts.tolist() == [1]*5

def test_an_empty_table():
    table,numbers = table_of(['', ''])
    assert (table.chunks, table.counts.tolist(), len(table), numbers) == ([], [], 0, [])
    assert split('') == [] and chunk_ends('').tolist() == []

def test_room_is_made_without_losing_anything():
    a = np.arange(5)
    assert with_room(a, 5) is a
    assert with_room(a, 6).tolist()[:5] == a.tolist() and len(with_room(a, 6)) == 10 and len(with_room(a, 99)) == 99

def test_the_book(root):
    text = (root/'datasets'/'cervantes.txt').read_text(encoding='utf-8')
    assert ''.join(split(text)) == text
    assert [regex.match(GPT4_PATTERN, chunk)[0] for chunk in split(text)[:1000]] == split(text)[:1000]
