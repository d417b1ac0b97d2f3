"The tokenizer against its peers, against itself, and against damaged files"
import copy, pickle, random, re, subprocess, sys, warnings
from collections import Counter
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mini_llm.bpe import END_OF_TEXT, Tokenizer, count_chunks, encode_chunk, learn_merges, merge_pair, plot_merge_freqs
from mini_llm.regex_split import GPT4_PATTERN, split

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

def learn_naive(chunk_counts, n):
    words, merges = [list(c.encode()) for c in chunk_counts], []
    while len(merges) < n:
        counts = Counter()
        for ids,weight in zip(words, chunk_counts.values()):
            for p in zip(ids, ids[1:]): counts[p] += weight
        if not counts: break
        best = min(counts, key=lambda p: (-counts[p], p))
        words = [merge_pair(ids, best, 256+len(merges)) for ids in words]
        merges.append((best, counts[best]))
    return merges


# Training

@examples
@given(plain_text)
def test_learning_is_that_of_the_naive_loop(s):
    counts = count_chunks(s)
    assert list(learn_merges(counts)) == learn_naive(counts, inf)

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

def test_training_says_what_it_cannot_do():
    with pytest.raises(ValueError, match='vocab_size=255'): Tokenizer.train('a', 255)
    with pytest.raises(ValueError, match='character 1 .*surrogate'): Tokenizer.train(['ok', 'a\udfff'], 300)
    with pytest.raises(TypeError, match='str, got int'): Tokenizer.train(b'bytes', 300)
    with pytest.raises(ValueError, match='does not compile'): Tokenizer.train([], 300, pattern='(')
    with pytest.raises(ValueError, match="drops ' '"): Tokenizer.train('a b', 300, pattern=r'\w+')
    with pytest.warns(UserWarning, match='2 merges and no more, so vocab_size is 258, not 300'):
        tok = Tokenizer.train('abc', 300, special_tokens=['<x>'])
    assert (tok.vocab_size, tok.n_vocab, tok.special_tokens) == (258, 259, {'<x>': 258})

@pytest.mark.parametrize('texts', ['', [], ['', ''], 'a', 'a b c'])
def test_plain_bytes_work_everywhere(texts, tmp_path):
    tok = Tokenizer.train(texts, 256)
    tok.save(tmp_path/'256.model')
    tok = Tokenizer.load(tmp_path/'256.model')
    assert (tok.vocab, tok.merges, tok.merge_counts, tok.n_vocab) == (BYTES, [], [], 256)
    assert tok.encode('ñ 中').tolist() == list('ñ 中'.encode())
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
    ids = encode_chunk(b, tok.ranks)
    assert ids == encode_naive(b, tok.ranks)
    assert tok.decode_bytes(ids) == b
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

def test_long_chunks_are_no_trap(tok):
    s = 'que' * 100_000
    assert tok.decode(tok.encode(s)) == s
    assert not tok._cache.get(s)

@examples
@given(st.lists(st.integers(0, 1024)))
def test_any_ids_decode_from_any_container(tok, ids):
    b = tok.decode_bytes(ids)
    for o in (tuple(ids), iter(ids), np.array(ids, dtype=np.uint16), np.array(ids, dtype=np.int64)):
        assert tok.decode_bytes(o) == b
    assert b.decode('utf-8', errors='replace') == tok.decode(ids)

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
specials = st.lists(special_text, min_size=1, max_size=5, unique=True)

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


# Files

@examples
@given(specials, st.sampled_from([GPT4_PATTERN, r'\s|\S', '(?x) \\S+ # "words"\n | \\s+', '[ñ中\u2028]|(?s:.)']), plain_text)
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
        refused(saved, tmp_path, b''.join(lines[:i] + lines[i+1:]), i+1 if i < len(lines)-2 else None)
        refused(saved, tmp_path, b''.join(lines[:i+1] + lines[i:]), i+2)
    for i in range(len(lines)-3):
        refused(saved, tmp_path, b''.join(lines[:i] + [lines[i+1], lines[i]] + lines[i+2:]), i+1)

def test_a_file_cut_short_is_refused(saved, tmp_path):
    data = saved.read_bytes()
    for n in [*range(0, 400), *range(len(data)-400, len(data)-1)]: refused(saved, tmp_path, data[:n])

def test_a_changed_digit_is_refused_unless_it_is_a_count(saved, tmp_path):
    lines = saved.read_text(encoding='utf-8').splitlines(keepends=True)
    for i in range(3, 323):
        head, times, n = lines[i].partition(', ')
        for m in re.finditer(r'(?<![\\x"0-9a-f])[0-9]', re.sub(r'"(?:[^"\\]|\\.)*"', lambda m: '_'*len(m[0]), head)):
            digit = str((int(m[0]) + 1) % 10)
            changed = head[:m.start()] + digit + head[m.end():] + times + n
            refused(saved, tmp_path, ''.join([*lines[:i], changed, *lines[i+1:]]).encode(), i+1)

def test_foreign_files_are_refused(saved, tmp_path):
    data = saved.read_bytes()
    refused(saved, tmp_path, b'', 1)
    refused(saved, tmp_path, b'minbpe v1\n', 1)
    refused(saved, tmp_path, b'\xef\xbb\xbf' + data, 1)
    refused(saved, tmp_path, data.replace(b'bpe 1', b'bpe 2'), 1)
    refused(saved, tmp_path, data.replace(b'"a"', b'"\xe1"'), 101)
    refused(saved, tmp_path, data.decode().encode('utf-16'), 1)
    with pytest.raises(FileNotFoundError): Tokenizer.load(tmp_path/'none.model')


# Living with others

def test_tokenizers_can_be_copied_and_pickled(tok):
    for o in (copy.deepcopy(tok), pickle.loads(pickle.dumps(tok))):
        assert o.encode('¿Quién?').tolist() == tok.encode('¿Quién?').tolist()

def test_the_tokenizer_needs_no_torch_and_no_matplotlib():
    code = "import sys, mini_llm.bpe; print([o for o in ('torch', 'matplotlib') if o in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
