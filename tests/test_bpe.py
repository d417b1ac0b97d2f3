"The tokenizer against its peers, against itself, and against damaged files"
import codecs, copy, pickle, random, re, sys, warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from math import inf
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from mini_llm.bpe import END_OF_TEXT, Tokenizer, count_chunks, learn_merges, pieces
from mini_llm.engine.encoding import LONGEST, Ranks
from mini_llm.engine.inputs import as_ids
from mini_llm.gallery.drawing import plot_merge_freqs
from mini_llm.regex_split import CL100K_PATTERN, GPT4_PATTERN, split
from test_text import SCALARS, borders, confusing, show_borders

examples = settings(max_examples=150, deadline=None, derandomize=True, database=None)
any_text = st.text(st.characters(exclude_categories=['Cs']))
# Text on which the Unicode tables of all engines agree, with few letters so that merges have something to do
PIECES = list("aabnñó eq 中яא😀0٣'.,¿?—\n\r\t\u00a0")
PIECES += [' de', ' que', ' razón', "'s", '  ', '123', 'caballer', END_OF_TEXT]
plain_text = st.lists(st.sampled_from(PIECES), max_size=60).map(''.join)
BYTES = [bytes([i]) for i in range(256)]


@pytest.fixture(scope='session')
def text(root): return (root/'datasets'/'cervantes.txt').read_text(encoding='utf-8')

@pytest.fixture(scope='session')
def tok(text): return Tokenizer.train(text, 1024, special_tokens=[END_OF_TEXT])

def quiet_train(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return Tokenizer.train(*args, **kwargs)

def encode_naive(chunk, ranks):
    if chunk in ranks: return [ranks[chunk]]
    parts = [bytes([b]) for b in chunk]
    while True:
        joined = [ranks.get(a+b, inf) for a,b in zip(parts, parts[1:])]
        if min(joined, default=inf) == inf: return [ranks[p] for p in parts]
        i = joined.index(min(joined))
        parts[i:i+2] = [parts[i] + parts[i+1]]

def replace_pair(ids, pair, new):
    res, i = [], 0
    while i < len(ids):
        found = tuple(ids[i:i+2]) == pair
        res.append(new if found else ids[i])
        i += 1 + found
    return res

def learn_naive(chunk_counts, n):
    words, merges = [list(c) for c in chunk_counts], []
    while len(merges) < n:
        counts = Counter()
        for ids,weight in zip(words, chunk_counts.values()):
            for p in zip(ids, ids[1:]): counts[p] += weight
        if not counts: break
        best = min(counts, key=lambda p: (-counts[p], p))
        words = [replace_pair(ids, best, 256+len(merges)) for ids in words]
        merges.append([*best, counts[best]])
    return merges


# Training

@examples
@given(plain_text)
def test_learning_is_that_of_the_naive_loop(s):
    table = count_chunks(s)
    assert dict(zip(table.chunks, table.counts.tolist())) == Counter(c.encode() for c in split(s))
    merges = learn_merges(table, 500)
    assert merges.dtype == np.int64 and merges.shape == (len(merges), 3)
    assert merges.tolist() == learn_naive(dict(zip(table.chunks, table.counts.tolist())), inf)
    assert learn_merges(table, 3).tolist() == merges[:3].tolist()

@pytest.mark.parametrize('seed', range(30))
def test_runs_of_few_letters_are_learned_as_by_the_naive_loop(seed):
    "Where pairs overlap with themselves, and counts fall while others rise"
    rng = random.Random(seed)
    s = ' '.join(''.join(rng.choices('ab', [9, 1 + seed%3], k=rng.randint(1, 30))) for _ in range(rng.randint(1, 60)))
    counts = Counter(c.encode() for c in split(s))
    assert learn_merges(count_chunks(s), 10_000).tolist() == learn_naive(counts, inf)

@examples
@given(plain_text, st.integers(256, 300))
def test_learning_is_that_of_rustbpe(s, vocab_size):
    rust = pytest.importorskip('rustbpe').Tokenizer()
    rust.train_from_iterator([s], vocab_size, pattern=GPT4_PATTERN)
    assert quiet_train(s, vocab_size).vocab == [bytes(b) for b,_ in rust.get_mergeable_ranks()]

@pytest.mark.parametrize('vocab_size', [257, 512, 2048])
def test_the_book_gives_the_merges_of_rustbpe(text, vocab_size):
    rust = pytest.importorskip('rustbpe').Tokenizer()
    rust.train_from_iterator([text], vocab_size, pattern=GPT4_PATTERN)
    assert Tokenizer.train(text, vocab_size).vocab == [bytes(b) for b,_ in rust.get_mergeable_ranks()]

@pytest.mark.parametrize('n', [100, 1000, 2000, 5000, 20_000, 60_000])
def test_text_with_many_different_pairs(n):
    "Characters at random: the notes of pairs need more room than words would"
    s = ''.join(random.Random(n).choices([chr(c) for c in range(0x4e00, 0x9fff)], k=n))
    rust = pytest.importorskip('rustbpe').Tokenizer()
    rust.train_from_iterator([s], 600, pattern=GPT4_PATTERN)
    assert quiet_train(s, 600).vocab == [bytes(b) for b,_ in rust.get_mergeable_ranks()]

def test_the_book_gives_the_merges_of_tokenizers(text):
    hf = pytest.importorskip('tokenizers')
    peer = hf.Tokenizer(hf.models.BPE())
    latin1 = [chunk.encode().decode('latin-1') for chunk in split(text)]
    peer.train_from_iterator(latin1, hf.trainers.BpeTrainer(
        vocab_size=2048, initial_alphabet=[chr(i) for i in range(256)], show_progress=False))
    vocab = sorted(peer.get_vocab(), key=peer.get_vocab().get)
    assert Tokenizer.train(text, 2048).vocab == [s.encode('latin-1') for s in vocab]

def test_texts_may_come_one_by_one(text):
    docs = text.split('\n\n')
    many = Tokenizer.train((doc for doc in docs), 400)
    assert many.vocab == Tokenizer.train(docs, 400).vocab
    assert many.vocab == Tokenizer.train(list(reversed(docs)), 400).vocab

@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('pattern', [GPT4_PATTERN, r'\S+|\s+'])
def test_training_is_the_same_however_the_text_is_cut(text, seed, pattern):
    rng, chunks = random.Random(seed), split(text[:60_000], pattern)
    cuts = sorted(rng.choices(range(len(chunks)), k=rng.choice([1, 10, 1000])))
    parts = [''.join(chunks[a:b]) for a,b in zip([0, *cuts], [*cuts, None])]
    rng.shuffle(parts)
    whole, cut = (learn_merges(count_chunks(o, pattern), 10_000) for o in (text[:60_000], iter(parts)))
    assert np.array_equal(whole, cut)

def test_training_reads_one_text_at_a_time():
    alive = []
    class Text(str):
        def __del__(self): alive.remove(id(self))
    def texts():
        for i in range(100):
            o = Text(f'word{i} ' * 50)
            alive.append(id(o))
            yield o
            del o
            assert len(alive) <= 2
    Tokenizer.train(texts(), 260)

def test_many_different_pairs_are_learned_as_by_rustbpe():
    "More pairs than the first table of pairs has room for"
    rng = random.Random(0)
    s = ' '.join(''.join(map(chr, rng.choices(range(0x4e00, 0x9f00), k=rng.randint(1, 12)))) for _ in range(30_000))
    rust = pytest.importorskip('rustbpe').Tokenizer()
    rust.train_from_iterator([s], 3000, pattern=GPT4_PATTERN)
    assert Tokenizer.train(s, 3000).vocab == [bytes(b) for b,_ in rust.get_mergeable_ranks()]

def test_training_says_what_it_cannot_do():
    with pytest.raises(ValueError, match='vocab_size=255'): Tokenizer.train('a', 255)
    with pytest.raises(ValueError, match='character 1 .*surrogate'): Tokenizer.train(['ok', 'a\udfff'], 300)
    with pytest.raises(TypeError, match=r"got bytes; turn bytes into text with \.decode"):
        Tokenizer.train(b'bytes', 300)
    with pytest.raises(TypeError, match='str, got bytes'): Tokenizer.train([b'bytes'], 300)
    with pytest.raises(TypeError, match='a text or several, got int'): Tokenizer.train(5)
    for bad in (300., '300', True, None):
        with pytest.raises(ValueError, match='must be a whole number'): Tokenizer.train('a', bad)
    with pytest.raises(ValueError, match='does not compile'): Tokenizer.train([], 300, pattern='(')
    with pytest.raises(ValueError, match='the pattern drops'): Tokenizer.train('a b', 300, pattern=r'\w+')
    with pytest.raises(ValueError, match='stands twice'): Tokenizer.train('a', 300, special_tokens=['<x>', '<x>'])

@pytest.mark.parametrize('vocab_size', [259, 300, 10**6, 10**12])
def test_a_wish_that_the_text_cannot_fill(vocab_size):
    with pytest.warns(UserWarning, match=f'2 merges and no more, so vocab_size is 258, not {vocab_size}'):
        tok = Tokenizer.train('abc', vocab_size, special_tokens=['<x>'])
    assert (tok.vocab_size, tok.n_vocab, tok.special_tokens) == (258, 259, {'<x>': 258})
    with warnings.catch_warnings():
        warnings.simplefilter('error') # what is filled needs no warning
        assert Tokenizer.train('abc', 258).vocab == tok.vocab

@pytest.mark.parametrize('texts', ['', [], ['', ''], 'a', 'a b c'])
def test_plain_bytes_work_everywhere(texts, tmp_path):
    tok = Tokenizer.train(texts, 256)
    tok.save(tmp_path/'256.model')
    tok = Tokenizer.load(tmp_path/'256.model')
    assert (tok.vocab, tok.merges, tok.merge_counts, tok.n_vocab) == (BYTES, [], [], 256)
    s = 'ñ 中\n\n'
    assert tok.encode(s).dtype == np.int32 and tok.encode(s).tolist() == list(s.encode())
    assert tok.decode(tok.encode(s)) == s
    assert tok.tokens('ñ') == ['\\xc3', '\\xb1']
    assert tok.offsets(tok.encode(s)).tolist() == [[i, i+1] for i in range(len(s.encode()))]
    assert [ids.tolist() for ids in tok.encode_batch([s, ''])] == [list(s.encode()), []]
    assert [i for ids in tok.encode_iter(s) for i in ids] == list(s.encode())
    assert ''.join(tok.decode_stream(s.encode())) == s
    tok.to_minbpe(tmp_path/'minbpe.model')
    assert Tokenizer.from_minbpe(tmp_path/'minbpe.model').vocab == BYTES
    plot_merge_freqs(tok.merge_counts).figure.canvas.draw()


# Encoding and decoding

@examples
@given(any_text)
def test_text_comes_back(tok, s):
    ids = tok.encode(s)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert tok.decode(ids) == s
    assert tok.decode(tok.encode(s, allowed_special='all')) == s

@examples
@given(st.binary(max_size=200))
def test_bytes_come_back(tok, b):
    ids = Ranks(tok.vocab).join(b) if b not in tok.ranks else np.array([tok.ranks[b]])
    assert ids.tolist() == encode_naive(b, tok.ranks)
    assert tok.decode_bytes(ids) == tok.decode_bytes(list(b)) == b
    assert tok.decode(ids) == b.decode('utf-8', errors='replace')

@examples
@given(plain_text)
def test_ids_are_those_of_tiktoken(tok, s):
    tiktoken = pytest.importorskip('tiktoken')
    peer = tiktoken.Encoding('x', pat_str=tok.pattern, mergeable_ranks=tok.ranks, special_tokens=tok.special_tokens)
    assert tok.encode(s).tolist() == peer.encode_ordinary(s)
    assert tok.encode(s, allowed_special='all').tolist() == peer.encode(s, allowed_special='all')
    assert tok.decode_bytes(tok.encode(s)) == peer.decode_bytes(peer.encode_ordinary(s))

@pytest.mark.parametrize('seed', range(20))
def test_any_vocabulary_means_what_it_means_to_tiktoken(seed):
    "Bytes in any order, and tokens that no merge of two others can make"
    tiktoken, rng = pytest.importorskip('tiktoken'), random.Random(seed)
    words = {bytes(rng.choices(b'abc ', k=rng.randint(2, 6))) for _ in range(60)}
    vocab = rng.sample(BYTES, 256) + sorted(words, key=lambda _: rng.random())
    tok = Tokenizer(vocab, pattern=r'\S+|\s+')
    peer = tiktoken.Encoding('x', pat_str=tok.pattern, mergeable_ranks=tok.ranks, special_tokens={})
    for _ in range(200):
        s = ''.join(rng.choices('abc ñ', k=rng.randint(0, 40)))
        assert tok.encode(s).tolist() == peer.encode_ordinary(s)

def test_a_vocabulary_of_no_merges_saves_and_loads(tmp_path):
    tok = Tokenizer(BYTES[::-1] + [b'abc', b'ab', b'abcabd'])
    assert tok.merges == [(158, 157, 156), (158, 157), (256, 257, 155)]
    tok.save(tmp_path/'x.model')
    assert Tokenizer.load(tmp_path/'x.model').vocab == tok.vocab

def test_the_book_gives_the_ids_of_tiktoken(tok, text):
    tiktoken = pytest.importorskip('tiktoken')
    peer = tiktoken.Encoding('x', pat_str=tok.pattern, mergeable_ranks=tok.ranks, special_tokens=tok.special_tokens)
    assert tok.encode(text).tolist() == peer.encode_ordinary(text)

@pytest.fixture(scope='session')
def peer(tok):
    tiktoken = pytest.importorskip('tiktoken')
    return tiktoken.Encoding('x', pat_str=tok.pattern, mergeable_ranks=tok.ranks, special_tokens=tok.special_tokens)

@pytest.mark.parametrize('alphabet', ['q', 'qu', 'queabcdñ', ' \n'])
def test_chunks_of_any_length_around_the_longest_that_is_remembered(tok, peer, alphabet):
    rng = random.Random(0)
    for n in [1, 7, 8, 9, 15, 16, 17, *range(LONGEST-3, LONGEST+4), 2*LONGEST, 1000]:
        s = ''.join(rng.choices(alphabet, k=n))
        for _ in range(2): assert tok.encode(s + ' ' + s).tolist() == peer.encode_ordinary(s + ' ' + s)

@pytest.mark.parametrize('make', [
    lambda rng: rng.choices('abcdefghijklmnopqrstuvwxyzñ', k=1_000_000), lambda rng: 'a'*1_000_000,
    lambda rng: 'que'*333_333 + 'q', lambda rng: 'ab'*500_000], ids=['random', 'a', 'que', 'ab'])
def test_a_chunk_of_a_million_letters(tok, peer, make):
    s = ''.join(make(random.Random(0)))
    assert np.array_equal(tok.encode(s), peer.encode_to_numpy(s))
    assert np.array_equal(tok.encode('x ' + s + '\n'), peer.encode_to_numpy('x ' + s + '\n'))

def test_long_chunks_and_whole_texts_are_not_remembered(text):
    tok = Tokenizer.train(text, 300)
    for s in ('que'*1_000_000, ' '*1_000_000, 'que '*1_000_000): assert tok.decode(tok.encode(s)) == s
    assert remembered(tok) < 1 << 20

def remembered(tok): return sum(memory.nbytes for memory in tok._memories)

@pytest.mark.parametrize('cache_bytes', [0, 1 << 20, 8 << 20, Tokenizer.cache_bytes])
def test_what_is_remembered_is_bounded(tok, cache_bytes):
    tok = Tokenizer(tok.vocab)
    tok.cache_bytes = cache_bytes
    texts = [' '.join(f'{chr(97+i%26)*(i%40)}x{i:x}y' for i in range(n, n+100_000))
             for n in range(0, 3_000_000, 100_000)]
    expected = Tokenizer(tok.vocab).encode(texts[3]).tolist()
    for text in texts:
        tok.encode(text)
        # one thread has a quarter, and half at most
        assert len(tok._memories) == 1 and remembered(tok) <= max(cache_bytes//2, 1 << 20)
    assert tok.encode(texts[3]).tolist() == expected

def test_encoding_is_the_same_from_several_threads(text, tok, peer):
    tok, rng = Tokenizer(tok.vocab), random.Random(0)
    tok.cache_bytes = 1 << 20 # threads forget and learn again all the time
    parts = [text[i:i+rng.randint(1, 20_000)] + str(i)*(i%7) for i in rng.choices(range(len(text)), k=400)]
    expected, interval = [peer.encode_ordinary(o) for o in parts], sys.getswitchinterval()
    try:
        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(4) as pool: found = [o.tolist() for o in pool.map(tok.encode, parts)]
    finally: sys.setswitchinterval(interval)
    assert found == expected
    assert 1 <= len(tok._memories) <= 4

def test_the_pool_of_memories_is_bounded(tok, text):
    tok = Tokenizer(tok.vocab)
    with ThreadPoolExecutor(16) as pool: list(pool.map(tok.encode, [text[i:i+50_000] for i in range(0, 250_000, 1000)]))
    assert 1 <= len(tok._memories) <= 4

class Stop(BaseException): pass

def stop_after(n, f, *args):
    "Call f, and raise Stop at the n-th line of the package that runs; returns whether f came to its end"
    left = n
    def trace(frame, event, arg):
        nonlocal left
        if 'mini_llm' not in frame.f_code.co_filename: return None
        left -= event == 'line'
        if not left: raise Stop
        return trace
    before = sys.gettrace()
    sys.settrace(trace)
    try: f(*args)
    except Stop: return False
    finally: sys.settrace(before)
    return True

def test_an_interruption_anywhere_leaves_the_tokenizer_usable(tok, peer):
    tok, n = Tokenizer(tok.vocab), 0
    while True:
        n += 1
        new = f'una{n} palabra{n} ' + 'larga'*60 + f' {n}. '
        finished = stop_after(n, tok.encode, new * 3)
        s = new + ' más ' + new
        assert tok.encode(s).tolist() == peer.encode_ordinary(s) and len(tok._memories) <= 4
        if finished: break
    assert n > 20 # there were so many places

def test_an_error_leaves_the_tokenizer_usable(tok, peer):
    fresh = Tokenizer(tok.vocab, special_tokens=[END_OF_TEXT])
    for bad in ('palabra \ud800', f'nueva {END_OF_TEXT} \udfff'):
        with pytest.raises(ValueError, match='lone surrogate'): fresh.encode(bad, 'all')
        with pytest.raises(ValueError, match='lone surrogate'): fresh.encode_batch(['buena', bad, 'buena'], threads=2)
        assert fresh.encode('nueva palabra').tolist() == peer.encode_ordinary('nueva palabra')
    with pytest.raises(TypeError, match='str, got bytes'): fresh.encode(b'bytes')
    dropping = Tokenizer(BYTES, '[^ж]')
    with pytest.raises(ValueError, match="drops 'ж' at character 2"): dropping.encode('añж')
    assert dropping.encode('añ').tolist() == list('añ'.encode())

def test_the_place_of_a_lone_surrogate_is_that_in_the_text(tok):
    s = f'ab{END_OF_TEXT}cd\ud800'
    for args in ((s,), (s, 'all')):
        with pytest.raises(ValueError, match=f'character {len(s)-1} is'): tok.encode(*args)

def test_a_tensor_shares_the_memory_of_ids(tok):
    torch = pytest.importorskip('torch')
    for s in ('En un lugar', f'En{END_OF_TEXT}un', 'x'*1000, ''):
        for ids in (tok.encode(s), tok.encode(s, 'all'), *tok.encode_batch([s]), *tok.encode_iter(s)):
            assert ids.dtype == np.int32 and ids.flags.writeable and ids.flags.c_contiguous
            tensor = torch.from_numpy(ids)
            assert tensor.dtype == torch.int32 and tensor.shape == ids.shape
            if len(ids):
                tensor[0] = 7
                ids[-1] = 9
                assert (ids[0], tensor[-1]) == (7 if len(ids) > 1 else 9, 9)
    assert tok.encode('En un lugar').tolist() == tok.encode('En un lugar').tolist() != [7]
    assert tok.decode(tok.encode('En un lugar')) == 'En un lugar' # what was written is not remembered

def test_ids_hold_no_more_memory_than_they_need(tok, text):
    ids = tok.encode(text)
    assert ids.base is None and ids.nbytes == 4*len(ids) < len(text)*4


# Batches, streams, offsets

@examples
@given(st.lists(plain_text, max_size=8), st.integers(1, 4))
def test_batches_are_many_texts(tok, texts, threads):
    for allowed in ((), 'all', [END_OF_TEXT]):
        batch = tok.encode_batch(iter(texts), allowed, threads)
        assert isinstance(batch, list)
        assert [o.tolist() for o in batch] == [tok.encode(o, allowed).tolist() for o in texts]
        assert all(o.dtype == np.int32 for o in batch)

def test_batches_of_the_book(tok, peer, text):
    texts = [text[i:i+3000] for i in range(0, len(text), 3000)]
    for threads in (1, 2, 4):
        assert [o.tolist() for o in tok.encode_batch(texts, threads=threads)] == peer.encode_ordinary_batch(texts)
    with pytest.raises(ValueError, match='threads=0'): tok.encode_batch(texts, threads=0)

def cut(s, rng):
    "A text in parts, cut anywhere, some of them empty"
    at = sorted(rng.choices(range(len(s)+1), k=rng.choice([0, 1, 3, len(s)])))
    return [s[a:b] for a,b in zip([0, *at], [*at, len(s)])]

def joined(arrays):
    arrays = list(arrays)
    assert all(o.dtype == np.int32 for o in arrays)
    return np.concatenate([np.empty(0, np.int32), *arrays]).tolist()

STREAM_SPECIALS = ['<a>', '<a>b', ' \n', '\n\n', 'ñ', '.\n', '\na', 'b\n<']

@pytest.mark.parametrize('small', [False, True])
@pytest.mark.parametrize('pattern', [GPT4_PATTERN, CL100K_PATTERN, r'\S+|\s+', r'(?s:.{1,3})'])
def test_a_text_cut_anywhere_has_the_ids_of_the_whole(tok, pattern, small, monkeypatch):
    if small: # pieces as short as can be
        import mini_llm.bpe as bpe
        monkeypatch.setattr(bpe.pieces, '__defaults__', (1,))
    tok, rng = Tokenizer(tok.vocab, pattern, STREAM_SPECIALS), random.Random(0)
    signs = STREAM_SPECIALS + ['a', '<', '>', ' ', '\n', '\r', "'", 's', '1', 'b', '.', '\u2028', '\x1c', '\x85']
    strings = [''.join(rng.choices(signs, k=rng.randint(0, 20))) for _ in range(1500)] + list(confusing(1500, 'cut'))
    for s in strings:
        for allowed in ((), 'all', ['<a>', '<a>b'], ['\na']):
            found = joined(tok.encode_iter(iter(cut(s, rng)), allowed))
            assert found == tok.encode(s, allowed).tolist(), (ascii(s), allowed)
    assert joined(tok.encode_iter([])) == joined(tok.encode_iter('')) == joined(tok.encode_iter(['', ''])) == []

def test_the_book_in_parts(tok, peer, text, root):
    expected = peer.encode_ordinary(text)
    assert joined(tok.encode_iter(text)) == expected
    with open(root/'datasets'/'cervantes.txt', encoding='utf-8') as lines:
        assert joined(tok.encode_iter(lines)) == expected
    rng = random.Random(0)
    many = text*7
    for n in (1, 10, 1000):
        at = sorted(rng.choices(range(len(many)), k=n))
        assert joined(tok.encode_iter(many[a:b] for a,b in zip([0, *at], [*at, None]))) == peer.encode_ordinary(many)
    assert joined(tok.encode_iter(iter(text[:50_000]))) == peer.encode_ordinary(text[:50_000]) # single characters

@pytest.mark.parametrize('pattern', [GPT4_PATTERN, CL100K_PATTERN])
@pytest.mark.parametrize('allowed', [(), 'all'])
def test_a_stream_of_text_is_not_held_as_a_whole(tok, text, pattern, allowed):
    tok, given, done = Tokenizer(tok.vocab, pattern, [END_OF_TEXT]), 0, 0
    def parts():
        nonlocal given
        for i in range(60):
            for j in range(0, len(text), 50_000):
                given += len(text[j:j+50_000].encode())
                yield text[j:j+50_000]
    for ids in tok.encode_iter(parts(), allowed):
        done += len(tok.decode_bytes(ids))
        assert given - done < 4_000_000
    assert given == done > 18_000_000

def test_a_stream_says_what_it_cannot_encode(tok):
    with pytest.raises(ValueError, match='lone surrogate'): list(tok.encode_iter(['a', '\ud800']))
    with pytest.raises(ValueError, match="'<x>' is not a special token"): list(tok.encode_iter(['a'], ['<x>']))
    with pytest.raises(ValueError, match="'all' or a collection"): list(tok.encode_iter(['a'], END_OF_TEXT))

def offsets_plainly(pieces, unit):
    "What each piece of bytes covers of the text, in which a broken character is one U+FFFD"
    data, spans, i = b''.join(pieces), [], 0
    while i < len(data):
        bad = []
        codecs.register_error('mini_llm_note', lambda e: bad.append((e.start, e.end)) or ('\ufffd', e.end))
        for n in (1, 2, 3, 4):
            try: data[i:i+n].decode()
            except UnicodeDecodeError: continue
            break
        else:
            data[i:].decode('utf-8', 'mini_llm_note')
            n = bad[0][1]
        spans.append((i, min(i+n, len(data))))
        i += n
    res, at = [], 0
    for b in pieces:
        inside = [k for k,(start,end) in enumerate(spans) if start < at+len(b) and end > at]
        res.append([at, at+len(b)] if unit == 'bytes' else [inside[0], inside[-1]+1])
        at += len(b)
    return res

@examples
@given(any_text | plain_text, st.sampled_from(['bytes', 'characters']))
def test_offsets_are_where_tokens_stand(tok, s, unit):
    for ids in (tok.encode(s), tok.encode(s, 'all')):
        found = tok.offsets(ids, unit)
        assert found.dtype == np.int64 and found.shape == (len(ids), 2)
        assert found.tolist() == offsets_plainly([tok.decode_bytes([i]) for i in ids.tolist()], unit)
    if unit == 'bytes': assert [s.encode()[a:b] for a,b in found] == [tok.decode_bytes([i]) for i in ids.tolist()]

@examples
@given(st.lists(st.integers(0, 1024)))
@example([0x80])
@example([0xe4, 0x41, 0x80, 0xff])
def test_offsets_of_broken_characters_stay_in_the_text(tok, ids):
    assert tok.offsets(ids).tolist() == offsets_plainly([tok.decode_bytes([i]) for i in ids], 'bytes')
    found = tok.offsets(ids, 'characters')
    assert (found >= 0).all() and (found[:,0] <= found[:,1]).all() and (np.diff(found, axis=0) >= 0).all()
    assert (found <= len(tok.decode(ids))).all()

def test_offsets_know_two_units(tok):
    assert tok.offsets([]).shape == tok.offsets([], 'characters').shape == (0, 2)
    found = tok.offsets(list('a中ñ'.encode()), 'characters')
    assert found.tolist() == [[0, 1], [1, 2], [1, 2], [1, 2], [2, 3], [2, 3]]
    with pytest.raises(ValueError, match="unit='tokens'"): tok.offsets([1], 'tokens')
    with pytest.raises(ValueError, match='unknown token id 1025'): tok.offsets([1025])

def test_an_error_of_the_caller_stays_his_own(tok):
    with pytest.raises(KeyError, match='Sancho'): tok.decode({}[o] for o in ['Sancho'])

@examples
@given(st.lists(st.integers(0, 1024)) | any_text | plain_text)
def test_a_stream_of_ids_becomes_text_as_soon_as_it_can(tok, ids):
    if isinstance(ids, str): ids = tok.encode(ids, 'all').tolist()
    taken, got, decoder = 0, '', codecs.getincrementaldecoder('utf-8')('replace')
    def one_by_one():
        nonlocal taken, sure
        for taken,i in enumerate(ids, 1):
            assert got == sure # everything that was sure has come before the next id is asked for
            sure += decoder.decode(tok.decode_bytes([i]))
            yield i
    sure = ''
    for piece in tok.decode_stream(one_by_one()): got += piece
    assert got == tok.decode(ids)

def test_a_stream_of_tensors_and_unknown_ids(tok):
    torch = pytest.importorskip('torch')
    assert ''.join(tok.decode_stream(torch.from_numpy(tok.encode('¿Qué?')))) == '¿Qué?'
    stream = tok.decode_stream([65, 1025])
    assert next(stream) == 'A'
    with pytest.raises(ValueError, match='unknown token id 1025'): next(stream)

@examples
@given(st.lists(st.integers(0, 1024)))
def test_any_ids_decode_from_any_container(tok, ids):
    b = tok.decode_bytes(ids)
    assert b == b''.join([*tok.vocab, END_OF_TEXT.encode()][i] for i in ids)
    for o in (tuple(ids), iter(ids), np.array(ids, dtype=np.uint16), np.array(ids, dtype=np.int64)):
        assert tok.decode_bytes(o) == b
    assert b.decode('utf-8', errors='replace') == tok.decode(ids)

def test_ids_decode_from_any_array(tok):
    ids = np.array([*range(1025), *range(0, 1025, 7)])
    b = b''.join([*tok.vocab, END_OF_TEXT.encode()][i] for i in ids)
    kept = ids.astype(np.int32)
    kept.setflags(write=False)
    for o in (kept, np.repeat(kept, 2)[::2], *map(ids.astype, ('>i4', np.uint64, np.int16))):
        assert tok.decode_bytes(o) == b

@pytest.mark.parametrize('longest', [16, 17, 63, 64, 65, 300])
def test_pages_are_laid_out_whole(longest, monkeypatch):
    "Tokens that are as long as a page or longer, in any order, with special tokens between them"
    monkeypatch.setattr('mini_llm.engine.encoding.PAGE', 64)
    lengths, rng = [2, 3, 8, 9, 15, longest], random.Random(longest)
    ranks = Ranks(vocab := BYTES + [rng.randbytes(n) for n in lengths])
    spelled = dict(enumerate(vocab)) | {-1: b'<less>', 2**40: b'<more>'}
    for _ in range(300):
        ids = rng.choices(list(spelled)[-8:], k=rng.randrange(60)) + rng.choices(range(256), k=rng.randrange(60))
        rng.shuffle(ids)
        assert ranks.lay_out(np.array(ids, np.int64), spelled) == b''.join(spelled[i] for i in ids)

ODD = [1, -1, 2**31, 2**63, 2**70, True, 2.5, None, 'a', np.int64(3), np.uint8(4), np.float32(1), np.True_,
       np.array(3), [1]]

def test_a_list_is_read_as_numpy_reads_it():
    "In which an odd entry may stand anywhere"
    for a, b in product(ODD, ODD):
        for row in ([a], [a, b], [5, a, b], (5, a, b)):
            try: expected = np.asarray(row)
            except ValueError: expected = np.asarray(1.5)
            if expected.ndim == 1 and expected.dtype.kind in 'iu':
                assert as_ids(row).tolist() == expected.tolist()
            else:
                with pytest.raises(ValueError, match='ids'): as_ids(row)

def test_tensors_decode(tok):
    torch = pytest.importorskip('torch')
    ids = tok.encode('En un lugar de la Mancha')
    assert tok.decode(torch.from_numpy(ids)) == tok.decode(list(torch.from_numpy(ids))) == 'En un lugar de la Mancha'

@pytest.mark.parametrize('ids, reason', [
    ([1025], 'unknown token id 1025; ids run from 0 to 1024'), ([-1], 'unknown token id -1'), ([2**70], 'integers'),
    ([[1]], 'one dimension'), ([.5], 'integers, not float64'), (['a'], 'integers'), ([True], 'integers, not bool')])
def test_ids_that_are_none(tok, ids, reason):
    with pytest.raises(ValueError, match=re.escape(reason)): tok.decode(ids)

def test_ids_between_the_vocabulary_and_a_special_token_are_unknown():
    tok = Tokenizer(BYTES, special_tokens={'<end>': 300})
    assert tok.n_vocab == 301 and tok.decode([300]) == '<end>'
    with pytest.raises(ValueError, match='unknown token id 256'): tok.decode([256])


# Special tokens

special_text = st.text(st.characters(exclude_categories=['Cs']), min_size=1, max_size=5)
specials = st.lists(special_text | st.text('<a>', min_size=1, max_size=4), min_size=1, max_size=5, unique=True)

@examples
@given(specials, st.data())
def test_special_tokens_are_found_longest_first(special_tokens, data):
    tok = Tokenizer(BYTES, special_tokens=special_tokens)
    s = ''.join(data.draw(st.lists(st.sampled_from(special_tokens + ['a', ' ', '\n']))))
    i, expected = 0, []
    while i < len(s):
        found = max((o for o in special_tokens if s.startswith(o, i)), key=len, default='')
        expected += [tok.special_tokens[found]] if found else s[i].encode()
        i += len(found) or 1
    assert tok.encode(s, allowed_special=special_tokens).tolist() == expected
    assert tok.encode(s).max(initial=0) < 256
    assert tok.decode(expected) == s

def test_special_tokens_are_inert_unless_allowed(tok):
    s = f'a{END_OF_TEXT}b'
    assert 1024 not in tok.encode(s) and 1024 not in tok.encode(s, allowed_special=[])
    assert tok.encode(s, allowed_special={END_OF_TEXT}).tolist() == [97, 1024, 98]
    with pytest.raises(ValueError, match="'<x>' is not a special token"): tok.encode(s, allowed_special=['<x>'])
    with pytest.raises(ValueError, match="'all' or a collection"): tok.encode(s, allowed_special=END_OF_TEXT)


def test_special_tokens_may_be_added_at_any_time(tok, text):
    tok = Tokenizer(tok.vocab, special_tokens=[END_OF_TEXT])
    before = tok.encode('a<x>b<x>').tolist()
    assert tok.add_special_tokens(['<x>', '<x><y>']) is None
    assert tok.special_tokens == {END_OF_TEXT: 1024, '<x>': 1025, '<x><y>': 1026} and tok.n_vocab == 1027
    assert tok.encode('a<x>b<x>').tolist() == before # inert in ordinary text, also in what is remembered
    assert tok.encode('a<x>b<x><y>', 'all').tolist() == [97, 1025, 98, 1026] and tok.decode([1026, 1025]) == '<x><y><x>'
    for bad,reason in [(['<z>', '<x>'], "'<x>'"), (['<z>', '<z>'], 'twice'), ([''], 'empty'), ('<z>', 'collection'),
                       (['\ud800'], 'surrogate')]:
        with pytest.raises(ValueError, match=reason): tok.add_special_tokens(bad)
    assert tok.n_vocab == 1027 and '<z>' not in tok.special_tokens # all or none
    tok.add_special_tokens([])
    tok.add_special_tokens({'<far>': 5000})
    tok.add_special_tokens(['<next>'])
    assert tok.special_tokens['<next>'] == 5001 and tok.n_vocab == 5002

def test_copies_share_no_special_tokens(tok):
    pytest.importorskip('tiktoken')
    tok = Tokenizer(tok.vocab, special_tokens=[END_OF_TEXT])
    given = tok.special_tokens
    copies = [copy.copy(tok), copy.deepcopy(tok), Tokenizer(tok.vocab, special_tokens=given),
              Tokenizer.from_tiktoken(tok.to_tiktoken())]
    exported = tok.to_tiktoken()
    tok.add_special_tokens(['<x>'])
    assert all(o.special_tokens == {END_OF_TEXT: 1024} for o in copies)
    assert exported.special_tokens_set == {END_OF_TEXT} and exported.encode('<x>') == exported.encode_ordinary('<x>')

@pytest.mark.parametrize('special_tokens, reason', [
    ({'<x>': 2**40}, '1099511627776'), ({'<x>': 3}, 'special id 3'), ({'<x>': 300, '<y>': 300}, 'twice'),
    ([''], 'empty'), ('<x>', 'collection'), (['\udfff'], 'surrogate')])
def test_special_tokens_that_cannot_be(special_tokens, reason):
    with pytest.raises(ValueError, match=reason): Tokenizer(BYTES, special_tokens=special_tokens)


# Files

@examples
@given(specials, st.sampled_from([GPT4_PATTERN, r'\s|\S', '(?x) \\S+ # "words"\n | \\s+', '[ñ中\u2028]|(?s:.)']),
       plain_text)
def test_files_restore_everything(tmp_path_factory, special_tokens, pattern, s):
    path = tmp_path_factory.mktemp('model')/'x.model'
    tok = quiet_train(s, 280, pattern=pattern, special_tokens=special_tokens)
    tok.save(path)
    again = Tokenizer.load(path)
    for o in ('vocab', 'pattern', 'special_tokens', 'merges', 'merge_counts', 'n_vocab'):
        assert getattr(again, o) == getattr(tok, o)
    s += ''.join(special_tokens)
    assert again.encode(s, 'all').tolist() == tok.encode(s, 'all').tolist()
    before = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == before

@pytest.fixture(scope='module')
def saved(text, tmp_path_factory):
    path = tmp_path_factory.mktemp('model')/'good.model'
    Tokenizer.train(text[:20_000], 320, special_tokens=['<a b>', '\n']).save(path)
    return path

def refused(saved, tmp_path, data, line=None):
    bad = tmp_path/'bad.model'
    bad.write_bytes(data)
    with pytest.raises(ValueError, match=rf'bad\.model, line {line or "[0-9]+"}: '): Tokenizer.load(bad)

def test_a_removed_doubled_or_swapped_line_is_refused_by_number(saved, tmp_path):
    lines = saved.read_bytes().splitlines(keepends=True)
    for i in range(len(lines)):
        refused(saved, tmp_path, b''.join(lines[:i] + lines[i+1:]), i+1 if i < len(lines)-3 else None)
        refused(saved, tmp_path, b''.join(lines[:i+1] + lines[i:]), i+2)
    for i in range(len(lines)-4):
        refused(saved, tmp_path, b''.join(lines[:i] + [lines[i+1], lines[i]] + lines[i+2:]), i+1)

def test_a_file_cut_short_is_refused(saved, tmp_path):
    data = saved.read_bytes()
    for n in [*range(0, 400), *range(len(data)-400, len(data)-1)]: refused(saved, tmp_path, data[:n])

def test_a_changed_digit_is_refused_by_its_line_unless_it_is_a_count(saved, tmp_path):
    lines = saved.read_text(encoding='utf-8').splitlines(keepends=True)
    for i in range(3, 323):
        head, times, n = lines[i].partition(', ')
        for m in re.finditer(r'(?<![\\x"0-9a-f])[0-9]', re.sub(r'"(?:[^"\\]|\\.)*"', lambda m: '_'*len(m[0]), head)):
            digit = str((int(m[0]) + 1) % 10)
            changed = head[:m.start()] + digit + head[m.end():] + times + n
            refused(saved, tmp_path, ''.join([*lines[:i], changed, *lines[i+1:]]).encode(), i+1)

def test_changes_that_break_no_rule_are_refused(saved, tmp_path):
    "A count and a pattern can be other ones; the fingerprint on the last line knows"
    data = saved.read_bytes()
    last = len(data.splitlines())
    for old,new in [(b' times', b'0 times'), (b'[sdmt]', b'[sdmx]'), (b'"<a b>"', b'"<a c>"'),
                    (b'\n320 "', b'\n420 "')]:
        assert old in data
        refused(saved, tmp_path, data.replace(old, new, 1), last)
    digest = data.splitlines()[-1]
    refused(saved, tmp_path, data.replace(digest, digest[:-1] + (b'0' if digest[-1:] != b'0' else b'1')), last)

def test_who_edits_on_purpose_can_say_so(saved, tmp_path):
    lines = saved.read_bytes().replace(b'mini_llm bpe 2', b'mini_llm bpe 1').splitlines(keepends=True)[:-1]
    lines[1] = b'pattern "\\\\w+|\\\\W"\n'
    (tmp_path/'mine.model').write_bytes(b''.join(lines))
    tok = Tokenizer.load(tmp_path/'mine.model')
    assert tok.pattern == r'\w+|\W' and tok.vocab == Tokenizer.load(saved).vocab

def damaged(data, rng):
    "The data cut short, or with some bits the other way round"
    if rng.random() < .3: return data[:rng.randrange(len(data))]
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8])): data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)

@pytest.mark.parametrize('kind', ['model', 'minbpe'])
@pytest.mark.parametrize('n', [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_damage_anywhere_is_told_with_its_line_or_changes_nothing(saved, tmp_path, kind, n):
    "Truncation and flipped bits: never anything but a ValueError that names file and line"
    tok = Tokenizer(Tokenizer.load(saved).vocab, special_tokens=[END_OF_TEXT])
    bad, rng = tmp_path/'bad.model', random.Random(n)
    {'model': tok.save, 'minbpe': tok.to_minbpe}[kind](bad)
    data, read = bad.read_bytes(), {'model': Tokenizer.load, 'minbpe': Tokenizer.from_minbpe}[kind]
    read_as_before = 0
    for _ in range(n):
        bad.write_bytes(damaged(data, rng))
        try: found = read(bad)
        except ValueError as e: assert re.match(rf'{re.escape(str(bad))}, line [0-9]+: ', str(e)), e
        else:
            read_as_before += found == tok
            assert kind == 'minbpe' or found == tok    # minbpe's file has no fingerprint
    assert read_as_before < n/10

@pytest.mark.parametrize('line', [2, 3, 260, -3, -2])
def test_numbers_that_are_too_long_are_refused_by_line(saved, tmp_path, line):
    lines = saved.read_text(encoding='utf-8').splitlines()
    lines[line] = re.sub('[0-9]+', '9'*5000, lines[line])
    refused(saved, tmp_path, '\n'.join(lines).encode())

def test_foreign_files_are_refused(saved, tmp_path):
    data = saved.read_bytes()
    refused(saved, tmp_path, b'', 1)
    refused(saved, tmp_path, b'minbpe v1\n', 1)
    refused(saved, tmp_path, b'\xef\xbb\xbf' + data, 1)
    refused(saved, tmp_path, data.replace(b'bpe 2', b'bpe 3'), 1)
    refused(saved, tmp_path, data.replace(b'"a"', b'"\xe1"'), 101)
    refused(saved, tmp_path, data.decode().encode('utf-16'), 1)
    with pytest.raises(FileNotFoundError): Tokenizer.load(tmp_path/'none.model')


# Other tools

PATTERNS = {'gpt4': GPT4_PATTERN, 'cl100k': CL100K_PATTERN}

@pytest.fixture(scope='session', params=PATTERNS)
def ours(request, text):
    "A tokenizer for each pattern"
    return Tokenizer.train(text, 1000, PATTERNS[request.param], [END_OF_TEXT, '<|fim|>', '<|fim|>x'])

def without_overlaps(tok):
    "For peers that do not look for the longest special token first"
    return Tokenizer(tok.vocab, tok.pattern, [END_OF_TEXT, '<|fim|>'])

SENTENCES = ['', ' ', f'a{END_OF_TEXT}b <|fim|>x<|fim|> ', 'En un lugar de la Mancha,\n de cuyo nombre  \n',
             "I'LL DON'T 'ſ"]

@pytest.fixture(scope='session')
def sentences(text):
    parts = [text[i:i+200] for i in range(0, len(text), 500)]
    return [*SENTENCES, *confusing(4000, 'export'), *parts, text[:100_000]]

def check_same(a, b, strings):
    assert (a.vocab, a.pattern, a.special_tokens, a.n_vocab) == (b.vocab, b.pattern, b.special_tokens, b.n_vocab)
    for s in strings: assert a.encode(s, 'all').tolist() == b.encode(s, 'all').tolist()

def test_to_tiktoken_and_back(ours, sentences):
    pytest.importorskip('tiktoken')
    ours = without_overlaps(ours)
    enc = ours.to_tiktoken('mine')
    assert enc.name == 'mine' and enc.n_vocab == ours.n_vocab
    for s in sentences:
        assert enc.encode_ordinary(s) == ours.encode(s).tolist()
        assert enc.encode(s, allowed_special='all') == ours.encode(s, 'all').tolist()
        assert enc.decode_bytes(ours.encode(s)) == s.encode()
    check_same(Tokenizer.from_tiktoken(enc), ours, sentences[:100])

def test_from_tiktoken_with_shuffled_bytes_and_scattered_ids():
    tiktoken = pytest.importorskip('tiktoken')
    rng = random.Random(0)
    vocab = rng.sample(BYTES, 256) + [b'ab', b'abc', b'bcd', b' ab', 'ñ'.encode()]
    ranks = {b: i for i,b in rng.sample(list(enumerate(vocab)), len(vocab))} # in any order
    enc = tiktoken.Encoding('x', pat_str=CL100K_PATTERN, mergeable_ranks=ranks,
                            special_tokens={'<end>': 300, '<begin>': 280})
    tok = Tokenizer.from_tiktoken(enc)
    assert (tok.vocab, tok.pattern, tok.n_vocab) == (vocab, CL100K_PATTERN, 301)
    assert tok.special_tokens == {'<end>': 300, '<begin>': 280}
    for _ in range(2000):
        s = ''.join(rng.choices(['a', 'b', 'c', 'd', ' ', 'ñ', '<end>', '<begin>'], k=rng.randint(0, 20)))
        assert tok.encode(s).tolist() == enc.encode_ordinary(s)
        assert tok.encode(s, 'all').tolist() == enc.encode(s, allowed_special='all')

def test_from_tiktoken_says_what_it_cannot_take():
    tiktoken = pytest.importorskip('tiktoken')
    ranks = {b: i + (i > 100) for i,b in enumerate(BYTES)}
    with pytest.raises(ValueError, match="ranks of 'holes'"):
        Tokenizer.from_tiktoken(tiktoken.Encoding('holes', pat_str=r'[\s\S]', mergeable_ranks=ranks, special_tokens={}))

@pytest.fixture(scope='session')
def huggingface():
    pytest.importorskip('tokenizers')
    transformers = pytest.importorskip('transformers')
    return lambda path: transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))

def encode_there(peer, s): return peer.encode(s, add_special_tokens=False)

def test_to_huggingface(ours, sentences, huggingface, tmp_path):
    ours.to_huggingface(tmp_path/'tokenizer.json')
    peer = huggingface(tmp_path/'tokenizer.json')
    for s in sentences:
        assert encode_there(peer, s) == ours.encode(s, 'all').tolist(), ascii(s)
        assert peer.decode(ours.encode(s, 'all').tolist(), clean_up_tokenization_spaces=False) == s
    assert len(peer) == ours.n_vocab and peer.convert_tokens_to_ids(END_OF_TEXT) == 1000

@pytest.mark.parametrize('pattern', PATTERNS.values(), ids=PATTERNS)
def test_chunks_in_huggingface(pattern, sentences, huggingface, tmp_path):
    "With a vocabulary whose ids show where chunks end"
    tok = Tokenizer(show_borders(), pattern)
    tok.to_huggingface(tmp_path/'tokenizer.json')
    peer = huggingface(tmp_path/'tokenizer.json')
    for s in [*sentences, '1234567', 'a 12345', 'a\n  ', ' \n', '\n \n ', 'a\n  \nb', 'a  \nb', '!\n\n  \n']:
        assert encode_there(peer, s) == tok.encode(s).tolist(), ascii(s)

@pytest.mark.parametrize('pattern', PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize('points', [borders(), pytest.param(SCALARS, marks=pytest.mark.slow)], ids=['borders', 'all'])
@pytest.mark.parametrize('context', ['{}\n', 'z {}z', "'{}z", ' {}.', '1{}2'])
def test_every_code_point_in_huggingface(pattern, points, context, tmp_path):
    "Oniguruma has Unicode tables of its own; the exported pattern must not ask them"
    tokenizers = pytest.importorskip('tokenizers')
    tok = Tokenizer(show_borders(), pattern)
    tok.to_huggingface(tmp_path/'tokenizer.json')
    peer = tokenizers.Tokenizer.from_file(str(tmp_path/'tokenizer.json'))
    for i in range(0, len(points), 20_000):
        s = ''.join(map(context.format, points[i:i+20_000]))
        assert peer.encode(s).ids == tok.encode(s).tolist()

@pytest.mark.parametrize('seed', range(40))
def test_any_vocabulary_in_huggingface(seed, huggingface, tmp_path):
    rng = random.Random(seed)
    words = {bytes(rng.choices(b'ab', k=rng.randint(2, 6))) for _ in range(15)}
    tok = Tokenizer(rng.sample(BYTES, 256) + sorted(words, key=lambda _: rng.random()), r'\S+|\s+')
    tok.to_huggingface(tmp_path/'tokenizer.json', pattern=r'\S+|\s+')
    peer = huggingface(tmp_path/'tokenizer.json')
    for _ in range(200):
        s = ''.join(rng.choices('aab', k=rng.randint(1, 30)))
        assert encode_there(peer, s) == tok.encode(s).tolist(), (tok.vocab[256:], s)

def test_scattered_special_ids_in_huggingface(huggingface, tmp_path):
    "As in GPT-4's vocabulary, where ids between special tokens are free: the same ids, or a refusal"
    tok = Tokenizer(BYTES + [b'ab'], special_tokens={'<c>': 300, '<a>': 257, '<b>': 280})
    try: tok.to_huggingface(tmp_path/'tokenizer.json')
    except ValueError as e: assert '<' in str(e)
    else: assert encode_there(huggingface(tmp_path/'tokenizer.json'), 'ab<b>x<c><a>') == [256, 280, ord('x'), 300, 257]

@pytest.mark.parametrize('pattern', [r'\p{N}{1,3}+|\P{N}', r'\S+$|[\s\S]', r'[^\n]+\Z|[\s\S]'])
def test_a_pattern_that_oniguruma_may_read_in_another_way_is_no_silent_trap(pattern, tmp_path):
    tok = Tokenizer(show_borders(), pattern)
    with pytest.raises(ValueError, match='give its spelling for Oniguruma'):
        tok.to_huggingface(tmp_path/'tokenizer.json')
    assert not (tmp_path/'tokenizer.json').exists()

def test_a_special_token_spelled_like_a_token_cannot_go_to_huggingface(tmp_path):
    with pytest.raises(ValueError, match="'ab' is spelled like a token"):
        Tokenizer(BYTES + [b'ab'], special_tokens=['ab']).to_huggingface(tmp_path/'tokenizer.json')

class Minbpe:
    "What minbpe's RegexTokenizer reads from a file and does with it"
    def __init__(self, path):
        with open(path, encoding='utf-8') as f:
            assert f.readline().strip() == 'minbpe v1'
            self.pattern = f.readline().strip()
            self.specials = {}
            for _ in range(int(f.readline().strip())):
                special, i = f.readline().strip().split()
                self.specials[special] = int(i)
            self.merges = {tuple(map(int, line.split())): 256+n for n,line in enumerate(f)}

    def encode_chunk(self, ids):
        while len(ids) >= 2:
            pair = min(zip(ids, ids[1:]), key=lambda p: self.merges.get(p, inf))
            if pair not in self.merges: break
            ids = replace_pair(ids, pair, self.merges[pair])
        return ids

    def encode(self, text, allowed_special='none'):
        if allowed_special == 'all' and self.specials:
            parts = re.split('(' + '|'.join(map(re.escape, self.specials)) + ')', text)
        else: parts = [text]
        return [i for o in parts for i in ([self.specials[o]] if allowed_special == 'all' and o in self.specials
                else [i for c in split(o, self.pattern) for i in self.encode_chunk(list(c.encode()))])]

    def save(self, path):
        with open(path, 'w') as f:
            f.write(f'minbpe v1\n{self.pattern}\n{len(self.specials)}\n')
            for special,i in self.specials.items(): f.write(f'{special} {i}\n')
            for a,b in self.merges: f.write(f'{a} {b}\n')

def test_to_minbpe_and_back(ours, sentences, tmp_path):
    tok = without_overlaps(ours)
    tok.to_minbpe(tmp_path/'x.model')
    peer = Minbpe(tmp_path/'x.model')
    assert (peer.pattern, peer.specials, len(peer.merges)) == (tok.pattern, tok.special_tokens, tok.vocab_size - 256)
    for s in sentences[:-1]:
        assert peer.encode(s) == tok.encode(s).tolist() and peer.encode(s, 'all') == tok.encode(s, 'all').tolist()
    check_same(Tokenizer.from_minbpe(tmp_path/'x.model'), tok, sentences[:100])

def test_from_minbpe(text, sentences, tmp_path):
    "minbpe breaks ties by the first pair that it meets"
    peer, words = Minbpe.__new__(Minbpe), [list(c.encode()) for c in split(text[:3000])]
    peer.pattern, peer.specials, peer.merges = GPT4_PATTERN, {END_OF_TEXT: 100257, '<|fim|>': 100260}, {}
    for i in range(256, 340):
        counts = Counter(p for w in words for p in zip(w, w[1:]))
        best = max(counts, key=counts.get)
        peer.merges[best], words = i, [replace_pair(w, best, i) for w in words]
    peer.save(tmp_path/'x.model')
    tok = Tokenizer.from_minbpe(tmp_path/'x.model')
    assert tok.merges == list(peer.merges) and tok.special_tokens == peer.specials and tok.n_vocab == 100261
    for s in sentences[:-1]:
        assert tok.encode(s).tolist() == peer.encode(s) and tok.encode(s, 'all').tolist() == peer.encode(s, 'all')

@pytest.mark.parametrize('data, line', [
    (b'', 1), (b'mini_llm bpe 1\n', 1), (b'minbpe v1\n', 2), (b'minbpe v1\n\\S+|\\s+\n', 3),
    (b'minbpe v1\n\\S+|\\s+\nx\n', 3), (b'minbpe v1\n\\S+|\\s+\n1\n', 4),
    (b'minbpe v1\n\\S+|\\s+\n1\n<x>\n', 4), (b'minbpe v1\n\\S+|\\s+\n0\n97 98\n97\n', 5),
    (b'minbpe v1\n\\S+|\\s+\n0\n97 98\n97 257\n', 5),
    (b'minbpe v1\n\\S+|\\s+\n0\n97 256\n', 4), (b'minbpe v1\n(\n0\n97 98\n', None), (b'minbpe v1\n\\S+\n0\n', None),
    (b'minbpe v1\n\\S+|\\s+\n0\n97 98\n97 98\n', None),
    (b'minbpe v1\n\\S+|\\s+\n1\n<x> 97\n', None), (b'minbpe v1\n\xff', 2)])
def test_damaged_files_of_minbpe_are_refused(data, line, tmp_path):
    (tmp_path/'bad.model').write_bytes(data)
    with pytest.raises(ValueError, match=rf'bad\.model, line {line or "[0-9]+"}: '):
        Tokenizer.from_minbpe(tmp_path/'bad.model')

@pytest.mark.parametrize('tok', [
    Tokenizer(BYTES[::-1]), Tokenizer(BYTES + [b'abc']), Tokenizer(BYTES, special_tokens=['<a b>']),
    Tokenizer(BYTES, special_tokens=['<a>\n']),
    Tokenizer(BYTES, special_tokens=['a\u2003b']), Tokenizer(BYTES, ' |[\\s\\S]'), Tokenizer(BYTES, '(?x)\\s\n|\\S')],
    ids=str)
def test_what_minbpe_cannot_store_is_refused(tok, tmp_path):
    with pytest.raises(ValueError, match='minbpe'): tok.to_minbpe(tmp_path/'x.model')
    assert not (tmp_path/'x.model').exists()


# Living with others

def test_tokenizers_are_equal_if_they_say_the_same(tok, tmp_path):
    tok.save(tmp_path/'x.model')
    made = Tokenizer(tok.vocab, special_tokens=[END_OF_TEXT])
    for again in (Tokenizer.load(tmp_path/'x.model'), copy.deepcopy(tok), made): assert tok == again
    others = [Tokenizer(tok.vocab), Tokenizer(tok.vocab[:-1], special_tokens={END_OF_TEXT: 1024}),
              Tokenizer(tok.vocab, CL100K_PATTERN, [END_OF_TEXT])]
    assert tok not in others and tok != 'tok' and not tok == None # noqa: E711
    with pytest.raises(TypeError, match='unhashable'): hash(tok) # it can get more special tokens

@pytest.mark.parametrize('counts', [np.array([5, 3]), [5, 3], (np.int64(5), np.int32(3)), iter([5, 3])],
                         ids=lambda o: type(o).__name__)
def test_counts_of_merges_in_any_container(counts, tmp_path):
    tok = Tokenizer(BYTES + [b'ab', b'abc'], merge_counts=counts)
    assert tok.merge_counts == [5, 3] and {type(n) for n in tok.merge_counts} == {int}
    tok.save(tmp_path/'x.model')
    assert Tokenizer.load(tmp_path/'x.model').merge_counts == [5, 3]

@pytest.mark.parametrize('counts, reason',
                         [([5], '2 merges and 1 counts'), (5, 'integers in a row'), ([5, -3], '-3 times'),
                          ([.5, 1.], 'float64')])
def test_counts_of_merges_that_cannot_be(counts, reason):
    with pytest.raises(ValueError, match=reason): Tokenizer(BYTES + [b'ab', b'abc'], merge_counts=counts)

@pytest.mark.parametrize('vocab, reason', [
    ('abc', 'a list of bytes'), (5, 'a list of bytes'), (BYTES + ['ab'], "'ab' is str"),
    (BYTES + [bytearray(b'ab')], 'bytearray'), (BYTES[1:], 'single bytes'), (BYTES + [b''], 'empty')])
def test_vocabularies_that_cannot_be(vocab, reason):
    with pytest.raises(ValueError, match=reason): Tokenizer(vocab)

def learning(*args, **kwargs): pytest.fail('learned before all arguments were checked')

@pytest.mark.parametrize('special_tokens, reason', [
    ({'<e>': 258}, 'special id 258 belongs to a token; special ids begin at 300'),
    ({'<e>': 300.}, 'must be a whole number'), ({'<e>': '300'}, 'must be a whole number'),
    ({'<e>': True}, 'must be a whole number'), (['a', 'a'], 'twice'), (5, 'collection'), (b'ab', 'collection'),
    ({'<e>': 2**40}, '31 bits')])
def test_special_tokens_are_checked_before_learning(special_tokens, reason, monkeypatch):
    monkeypatch.setattr('mini_llm.bpe.learn_merges', learning)
    with pytest.raises(ValueError, match=reason): Tokenizer.train('abc', 300, special_tokens=special_tokens)

@pytest.mark.parametrize('special_tokens', [{'<e>': 300}, {'<e>': np.int64(5000), '<f>': 301}])
def test_special_tokens_with_ids_behind_the_vocabulary(special_tokens, text):
    tok = Tokenizer.train(text[:5000], np.int64(300), special_tokens=special_tokens)
    assert tok.vocab_size == 300 and tok.special_tokens == special_tokens and type(tok.n_vocab) is int
    assert tok.encode('a<e>', 'all').tolist()[-1] == special_tokens['<e>']

def test_the_name_of_a_file_is_not_its_text(tmp_path, monkeypatch, tok):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'a book').write_text('uno dos', encoding='utf-8')
    for names in ('a book', ['a book'], 'nowhere/book.txt', ['x.txt', 'y.txt'], str(tmp_path/'a book')):
        with pytest.raises(ValueError, match='is the name of a file, not its text; read the file with Path'):
            quiet_train(names, 260)
    for path in (tmp_path/'a book', [tmp_path/'a book']):
        with pytest.raises(TypeError, match='read the file with Path'): quiet_train(path, 260)
    for f in (tok.encode, lambda o: tok.encode_batch([o]), lambda o: list(tok.encode_iter(o)),
              lambda o: list(tok.encode_iter([o]))):
        with pytest.raises(TypeError, match='read the file with Path'): f(tmp_path/'a book')
        with pytest.raises(TypeError, match='decode'): f(b'bytes')
    assert tok.decode(tok.encode('a book')) == 'a book' # a text like any other
    for texts in ('a book about a book.txt', ['a book', 'is a text']): assert quiet_train(texts, 260).vocab_size == 260

@pytest.mark.parametrize('ids', ['hola', 5, None, [[1], [2, 3]], [None], [1, '2'], np.float32([1]), np.int64(5), 1.5],
                         ids=str)
def test_what_is_no_row_of_ids(tok, ids):
    for f in (tok.decode, tok.decode_bytes, tok.offsets):
        with pytest.raises(ValueError, match='ids'): f(ids)

@pytest.mark.parametrize('id', ['a', 1.5, None, True, -1, 1025, [1]], ids=str)
def test_what_is_no_id(tok, id):
    with pytest.raises(ValueError, match='id'): tok.token_bytes(id)
    with pytest.raises(ValueError, match='id'): list(tok.decode_stream([id]))

@pytest.mark.parametrize('threads', [0, -1, 1.5, '2', None, True])
def test_threads_are_a_number(tok, threads):
    with pytest.raises(ValueError, match=f'threads={threads!r}'): tok.encode_batch(['a'], threads=threads)

@pytest.mark.parametrize('allowed', [5, [5], 'x', ['x'], 1.5])
def test_special_tokens_that_are_not_known_are_not_allowed(tok, allowed):
    with pytest.raises(ValueError, match='special token|collection'): tok.encode('a', allowed)

def junk(rng):
    "Something, and rarely what was asked for"
    return rng.choice([
        None, True, 0, 5, -1, 260, 2**70, 1.5, float('nan'), 1j, 'a', '', 'all', '\ud800', '(', '\n', b'a',
        bytearray(b'a'), [], [1],
        [-1], ['a'], [''], ['a', 'a'], [b'a'], [None], [True], [2**70], [[1]], [[1], [2, 3]], (1, 2), {}, {1: 2},
        {'a': 'b'}, {'a': 300},
        {'a'}, object(), np.array(3), np.array([1, 2]), np.array([[1]]), np.array(['a']), np.array([1.]),
        np.array([None]),
        np.float32(2), np.int64(257), range(3), iter([1]), iter(['a']), len, int, Path('x'), memoryview(b'ab'),
        r'\S+|\s+'])

def misuse(tok, name, rng):
    "Call one function of a tokenizer with things that may not go there"
    j = lambda *usual: rng.choice([*usual, junk(rng)])
    match name:
        case 'encode': tok.encode(j('a <x>'), j())
        case 'batch': tok.encode_batch(j(['a']), j('all'), j(1) if rng.random() < .5 else 1)
        case 'iter': list(tok.encode_iter(j('a\nb'), j('all')))
        case 'pieces': list(pieces(j('a\nb'), j(1)))
        case 'decode': tok.decode(j())
        case 'token': tok.token_bytes(j())
        case 'stream': list(tok.decode_stream(j()))
        case 'offsets': tok.offsets(j(), j('characters'))
        case 'init': Tokenizer(j(tok.vocab), j(GPT4_PATTERN), j(), j(None))
        case 'train': Tokenizer.train(j('la la'), j(258), j(GPT4_PATTERN), j(()))
        case 'add': copy.copy(tok).add_special_tokens(j())
        case 'tiktoken': Tokenizer.from_tiktoken(j())
        case 'learn': learn_merges(count_chunks('la la'), j())

@pytest.mark.parametrize('n', [600, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings('ignore')
def test_anything_may_come_in(tok, n):
    rng = random.Random(n)
    names = 'encode batch iter pieces decode token stream offsets init train add tiktoken learn'.split()
    for _ in range(n):
        try: misuse(tok, rng.choice(names), rng)
        except (TypeError, ValueError) as e: assert str(e)

def test_arguments_are_checked_when_they_are_given(tok):
    "Also by what gives its results one by one"
    for make in (lambda: tok.encode_iter('a', ['<x>']), lambda: tok.encode_iter(5), lambda: tok.pieces(5),
                 lambda: pieces(b'a'), lambda: pieces('a', 0)):
        with pytest.raises((TypeError, ValueError)): make()
    twice = tok.encode_batch([END_OF_TEXT, END_OF_TEXT], iter([END_OF_TEXT])) # which can be read once
    assert [o.tolist() for o in twice] == [[1024], [1024]]
    assert tok.encode(END_OF_TEXT, np.array([END_OF_TEXT])).tolist() == [1024]

def test_progress_without_a_place_to_show_it(monkeypatch, text):
    monkeypatch.setattr(sys, 'stderr', None) # as under pythonw, or with 2>&-
    tok = Tokenizer.train(text[:5000], 300, progress=True)
    assert joined(tok.encode_iter(text[:5000], progress=True)) == tok.encode(text[:5000]).tolist()

@pytest.mark.parametrize('name', ['END_OF_TEXT', 'Tokenizer', 'count_chunks', 'learn_merges', 'pieces'])
def test_names_that_stay(name):
    import mini_llm.bpe
    assert name in mini_llm.bpe.__all__
    assert not {'KEY', 'COUNT', 'LAST', 'LIST', 'FREQUENT', 'NO_LIMIT', 'LONGEST'} & set(mini_llm.bpe.__all__)

def test_tokenizers_can_be_copied_and_pickled(tok):
    tok = Tokenizer(tok.vocab, r'\S+|\s+', {END_OF_TEXT: 2000}, tok.merge_counts)
    tok.add_special_tokens(['<x>'])
    expected = tok.encode('¿Quién? <x>', 'all').tolist() # the memories are in use
    for o in (copy.copy(tok), copy.deepcopy(tok), pickle.loads(pickle.dumps(tok))):
        for name in ('vocab', 'pattern', 'special_tokens', 'merges', 'merge_counts', 'n_vocab'):
            assert getattr(o, name) == getattr(tok, name)
        assert o.encode('¿Quién? <x>', 'all').tolist() == expected and o._memories is not tok._memories
    assert len(pickle.dumps(tok)) < 100_000 # what is remembered stays at home
