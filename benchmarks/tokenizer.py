"""The tokenizer beside compiled ones: `python benchmarks/tokenizer.py [--corpus FILE]`. Results are asserted to be
equal before any time is taken, but for training, where gigatoken and gigabpe split and break ties in ways of their own.
One thread unless a row says otherwise. *Empty cache* is the first text of a tokenizer that is loaded and has encoded
nothing but ''. gigatoken is given bytes. The others are given a `str`, with which Python keeps its bytes once they
were asked for, by us or by a peer; *new texts* are strings that nobody has asked yet. Bar and aim are the project's
goals on 3.2 MB of Cervantes. Peers that are not installed are left out: `pip install 'mini-llm[bench]'` has them"""
import argparse
import base64
import hashlib
import importlib
import importlib.util
import itertools
import json
import os
import random
import re
import shutil
import statistics
import string
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

os.environ.setdefault('RAYON_NUM_THREADS', '1')    # of the peers in Rust

import numpy as np
import regex
import rustbpe
import tiktoken
from common import race, report, row
from invented import write

from mini_llm.bpe import END_OF_TEXT, Tokenizer
from mini_llm.regex_split import CL100K_PATTERN, GPT4_PATTERN, chunk_ends, split

# GPT-4's, inside the package litellm
RANKS = 'litellm_core_utils/tokenizers/9b5ad71b2ce5302211f9c61530b329a4922fc6a4'
RANKS_SHA256 = '223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7'
REPEATS = 7

MEMORY = """
import json, sys
from functools import partial
from mini_llm.bpe import Tokenizer, count_chunks, pieces

def largest(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) * 1024
def read(path):
    with open(path, encoding='utf-8') as f: yield from pieces(iter(partial(f.read, 1 << 22), ''))

before = largest()
Tokenizer.train(read(sys.argv[1]), 4096)
after = largest()
print(json.dumps([after - before, len(count_chunks(read(sys.argv[1])))]))
"""

START = """
import time
start = time.perf_counter()
import sys
from mini_llm.bpe import Tokenizer
Tokenizer.load(sys.argv[1]).encode('En un lugar de la Mancha, de cuyo nombre no quiero acordarme')
print(time.perf_counter() - start)
"""


OURS = """
import os, sys, time
from mini_llm.workshop.commands import dataset_command
text, model, out = sys.argv[1:]
os.mkdir(out)
os.chdir(out)
start = time.perf_counter()
dataset_command(['--encode_dataset', text, '--model', model, '--name', 'ours'])
print(time.perf_counter() - start)
"""

THEIRS = """
import sys, time
import awkward, gigatoken, numpy
text, tokenizer, out = sys.argv[1:]
start = time.perf_counter()
ids = gigatoken.Tokenizer(tokenizer).encode_files(gigatoken.TextFileSource([text]))
numpy.asarray(awkward.flatten(ids, axis=None)).astype('<u2').tofile(out)
print(time.perf_counter() - start)
"""

# The spelling of GPT-4's pattern that gigatoken knows
KNOWN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def installed(name):
    "A peer, or None"
    try: return importlib.import_module(name)
    except ImportError: left_out[name] = 'not installed'


def python(code, *args, **env):
    "What a fresh interpreter prints"
    run = subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True, check=True,
                         env=os.environ | env)
    return run.stdout


def last_number(printed): return float(printed.split()[-1])


def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def versus(work, ours, peers, **goals):
    "Race a function and its peers, in turn; the rate is that of the text"
    times = race(dict(ours=ours, **peers), REPEATS)
    return [row(work, 'MB/s', mb/times['ours'], name, mb/times[name], **goals.get(name.split('.')[0], {}))
            for name in peers]


def split_rows():
    assert split(text) == regex.findall(GPT4_PATTERN, text)
    assert np.array_equal(np.diff(chunk_ends(text), prepend=0), [len(o.encode()) for o in split(text)])
    theirs = partial(regex.findall, GPT4_PATTERN, text)
    yield from versus('split to byte offsets', partial(chunk_ends, text), {'regex.findall': theirs})
    yield from versus('split to strings', partial(split, text), {'regex.findall': theirs})


def fastest(tik):
    "The fastest of tiktoken's ways to encode the text, and its name"
    ways = dict(encode_ordinary=tik.encode_ordinary, encode=tik.encode, encode_to_numpy=tik.encode_to_numpy)
    times = race({name: partial(f, text) for name, f in ways.items()}, REPEATS)
    name = min(times, key=times.get)
    return {f'tiktoken.{name}': partial(ways[name], text)}


def json_file(tok, path):
    "A tokenizer as `tokenizer.json`, its pattern in the spelling that gigatoken knows"
    tok.to_huggingface(path)
    data = json.loads(path.read_text('utf-8'))
    split = dict(type='Split', pattern=dict(Regex=KNOWN), behavior='Isolated', invert=False)
    level = dict(type='ByteLevel', add_prefix_space=False, trim_offsets=True, use_regex=False)
    data['pre_tokenizer'] = dict(type='Sequence', pretokenizers=[split, level])
    data['model']['ignore_merges'] = True
    path.write_text(json.dumps(data), 'utf-8')
    return path


def fresh(make):
    "A function that encodes the text with a tokenizer that has not seen it, made beforehand"
    made = [make() for _ in range(REPEATS + 1)]
    for encode in made: encode(text[:0])
    return lambda: made.pop()(text)


def anew(encode):
    "A function that encodes the text as a string whose bytes Python does not know yet, made beforehand and kept"
    made = [text[:-1] + text[-1:] for _ in range(REPEATS + 1)]
    copies = iter(made)
    return lambda: encode(next(copies))


def peers_of(path):
    "Functions that make an encoder, by name; gigatoken's takes bytes"
    res = {}
    if gigatoken: res['gigatoken.encode'] = lambda: partial(as_bytes, gigatoken.Tokenizer(path).encode)
    if snaptokens: res['snaptokens.encode'] = lambda: snaptokens.Tokenizer.from_file(str(path)).encode
    return res


def as_bytes(encode, text): return encode(data if text else b'')


def encode_both(name, tok, tik, **goals):
    "Encode with a full and with an empty cache"
    with tempfile.TemporaryDirectory() as folder:
        makers = peers_of(json_file(tok, Path(folder)/'tokenizer.json'))
        encoders = {name: make() for name, make in makers.items()}
        ids = tok.encode(text).tolist()
        assert ids == tik.encode_ordinary(text)
        for encode in encoders.values(): assert ids == np.asarray(getattr(o := encode(text), 'ids', o)).tolist()
        warm = {name: partial(encode, text) for name, encode in encoders.items()}
        yield from versus(f'encode, {name}, warm cache', partial(tok.encode, text), fastest(tik) | warm,
                          tiktoken=dict(bar=6, aim=12), gigatoken=goals['warm'])
        giga = {o: f for o, f in warm.items() if o == 'gigatoken.encode'}
        yield from versus(f'encode, {name}, warm cache, new texts', anew(tok.encode), giga)
        tok.save(file := Path(folder)/'vocabulary.model')
        cold = {name: fresh(make) for name, make in makers.items()}
        yield from versus(f'encode, {name}, empty cache', fresh(lambda: Tokenizer.load(file).encode), cold,
                          gigatoken=dict(bar=.7, aim=1.1))


def encode_rows():
    yield from encode_both('4,096 tokens', tok, tik, warm=dict(bar=1, aim=1.5))
    parts = re.split(r'(?<=\n)(?=\S)', text)
    each = -(-len(parts)//16)
    texts = [''.join(parts[i:i+each]) for i in range(0, len(parts), each)]
    ours = partial(tok.encode_batch, texts, threads=2)
    theirs = partial(tik.encode_ordinary_batch, texts, num_threads=2)
    assert [o.tolist() for o in ours()] == theirs()
    peers = {'tiktoken.encode_ordinary_batch': theirs}
    yield from versus('encode, 2 threads', ours, peers, tiktoken=dict(bar=6, aim=12))


def file_rows():
    work = 'a file of 300 MB to ids on disk, 2 threads'
    if not (args.big and gigatoken):
        left_out[work] = 'slow; ask for it with --big' if gigatoken else 'gigatoken is not installed'
        return
    with tempfile.TemporaryDirectory() as folder:
        write(path := Path(folder)/'invented.txt', 300_000_000)
        tok = Tokenizer(globals()['tok'].vocab, special_tokens=[END_OF_TEXT])
        tok.save(model := Path(folder)/'vocabulary.model')
        tokenizer = json_file(globals()['tok'], Path(folder)/'tokenizer.json')
        times = []
        for i in range(REPEATS):
            ours, theirs = Path(folder)/f'ours{i}', Path(folder)/'theirs.bin'
            times.append((last_number(python(OURS, path, model, ours)),
                          last_number(python(THEIRS, path, tokenizer, theirs, RAYON_NUM_THREADS='2'))))
            if i: shutil.rmtree(ours)
        ids = [np.fromfile(Path(folder)/f'ours0/datasets/ours4096/{o}.bin', '<u2') for o in ('train', 'val')]
        assert np.array_equal(np.concatenate(ids)[:-1], np.fromfile(theirs, '<u2'))    # but for the end of the text
        size = path.stat().st_size/1e6
    ours, theirs = map(statistics.median, zip(*times))
    yield row(work, 'MB/s', size/ours, 'gigatoken.encode_files', size/theirs, bar=.8, aim=1.2)


def train_rust(vocab_size):
    rust = rustbpe.Tokenizer()
    rust.train_from_iterator([text], vocab_size, pattern=GPT4_PATTERN)
    return rust


def train_rows():
    for size in (4096, 16384):
        ours = Tokenizer.train(text, size)
        if ours.vocab_size < size:
            left_out[f'train to {size:,}'] = f'the text holds {ours.vocab_size - 256:,} merges'
            continue
        assert [bytes(b) for b, _ in train_rust(size).get_mergeable_ranks()] == ours.vocab
        peers = dict(rustbpe=partial(train_rust, size))
        if gigatoken: peers['gigatoken.train_bpe'] = partial(gigatoken.train_bpe, data, size, [])
        if gigabpe:
            learn = partial(gigabpe.train_bpe, pretokenizer='bytelevel', threads=1)
            peers['gigabpe.train_bpe'] = partial(learn, [args.corpus], size)
        goals = dict.fromkeys(['rustbpe', 'gigatoken', 'gigabpe'], dict(bar=1.5, aim=2))
        yield from versus(f'train to {size:,}', partial(Tokenizer.train, text, size), peers, **goals)


def decode_rows():
    ours, theirs = tok.encode(text), tik.encode_ordinary(text)
    assert tok.decode(ours) == tok.decode(theirs) == tik.decode(theirs) == text
    yield from versus('decode', partial(tok.decode, ours), {'tiktoken.decode': partial(tik.decode, theirs)},
                      tiktoken=dict(bar=2, aim=4))
    if gigatoken:
        with tempfile.TemporaryDirectory() as folder:
            giga = gigatoken.Tokenizer(json_file(tok, Path(folder)/'tokenizer.json'))
        assert giga.decode(ours) == tok.decode_bytes(ours) == data
        yield from versus('decode to bytes', partial(tok.decode_bytes, ours),
                          {'gigatoken.decode': partial(giga.decode, ours)}, gigatoken=dict(bar=2, aim=4))
    yield from versus('decode a list', partial(tok.decode, theirs), {'tiktoken.decode': partial(tik.decode, theirs)})


def find_ranks():
    "Bytes of the file of GPT-4's ranks, if there is one"
    package = importlib.util.find_spec('litellm')    # found, not imported
    path = args.gpt4_ranks or (package and Path(package.origin).parent/RANKS)
    if not path or not Path(path).exists(): return None
    data = Path(path).read_bytes()
    if hashlib.sha256(data).hexdigest() != RANKS_SHA256: raise SystemExit(f'{path} does not hold the ranks of GPT-4')
    return data


def gpt4_rows():
    data = find_ranks()
    if not data:
        left_out["encode, GPT-4's vocabulary"] = ('no ranks; name a file with --gpt4_ranks, '
                                                  'or install litellm without its dependencies')
        return
    ranks = {base64.b64decode(b): int(i) for b, i in map(bytes.split, data.splitlines())}
    tik = tiktoken.Encoding('cl100k_base', pat_str=CL100K_PATTERN, mergeable_ranks=ranks, special_tokens={})
    yield from encode_both("GPT-4's vocabulary", Tokenizer.from_tiktoken(tik), tik, warm=dict(bar=.8, aim=1.2))


def memory_rows():
    work = 'train on 1 GB, largest RSS above imports'
    if not args.big:
        left_out[work] = 'slow; ask for it with --big'
        return
    with tempfile.TemporaryDirectory() as folder:
        write(path := Path(folder)/'invented.txt', 10**9)
        python(MEMORY, args.corpus)    # compiles
        size, n = json.loads(python(MEMORY, path))
    assert n >= 3_000_000
    yield row(f'{work} ({n:,} different chunks)', 'MB', size/1e6, bar=500, aim=400)


def letter_rows():
    n, letters = 1_000_000, ''.join(random.Random(1).choices(string.ascii_lowercase, k=1_000_000))
    for text in (letters, 'a'*n): assert tok.encode(text).tolist() == tik.encode_ordinary(text)
    def median(text): return statistics.median(seconds(lambda: tok.encode(text)) for _ in range(3))
    whole, tenth = ([median(o[:k]) for o in (letters, 'a'*n)] for k in (n, n//10))
    yield row('encode 1,000,000 letters without a break', 's', max(whole), bar=2, aim=0.3)
    yield row('the same: time per letter against 100,000', 'x', max(a/b/10 for a, b in zip(whole, tenth)))


def start_rows():
    python(START, model)    # kernels go to disk
    inside, around = [], []
    for _ in range(REPEATS): around.append(seconds(lambda: inside.append(last_number(python(START, model)))))
    yield row('import, load, first encode', 's', statistics.median(inside), bar=0.6, aim=0.4)
    yield row('the same with the start and end of Python', 's', statistics.median(around))


p = argparse.ArgumentParser(description=__doc__)
p.add_argument('--corpus', default='datasets/cervantes.txt', help='text to measure on (%(default)s)')
p.add_argument('--gpt4_ranks', help="file of GPT-4's ranks in tiktoken's format (default: litellm's copy)")
p.add_argument('--big', action='store_true', help='also encode 300 MB and train on 1 GB of invented text')
args = p.parse_args()

warnings.filterwarnings('ignore', message='the text holds')
text, left_out = Path(args.corpus).read_text(encoding='utf-8'), {}
data = text.encode()
mb = len(data) / 1e6
gigatoken, snaptokens, gigabpe = map(installed, ('gigatoken', 'snaptokens', 'gigabpe'))
tok = Tokenizer.train(text, 4096)
tik = tiktoken.Encoding('ours', pat_str=GPT4_PATTERN, mergeable_ranks=tok.ranks, special_tokens={})
assert tok.encode(text).tolist() == tik.encode_ordinary(text) == tik.encode(text) == tik.encode_to_numpy(text).tolist()
with tempfile.TemporaryDirectory() as folder:
    tok.save(model := Path(folder)/'4096.model')
    parts = (split_rows, gpt4_rows, encode_rows, file_rows, train_rows, decode_rows, memory_rows, letter_rows,
             start_rows)
    rows = list(itertools.chain.from_iterable(part() for part in parts))
packages = ['numba', 'numpy', 'regex', 'rustbpe', 'tiktoken']
packages += [o.__name__ for o in (gigatoken, snaptokens, gigabpe) if o]
report('tokenizer', rows, packages, corpus=Path(args.corpus).name,
       megabytes=round(mb, 2), left_out=left_out)
for work, why in left_out.items(): print(f'left out: {work} ({why})')
