"""The tokenizer beside compiled ones: `python benchmarks/tokenizer.py [--corpus FILE]`. Results are asserted to be
equal before any time is taken; one thread unless a row says otherwise; bar and aim are the project's goals on 3.2 MB of
Cervantes"""
import argparse
import base64
import hashlib
import importlib.util
import itertools
import json
import random
import re
import statistics
import string
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import regex
import rustbpe
import tiktoken
from common import race, report, row
from invented import write

from mini_llm.bpe import Tokenizer
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


def python(code, *args):
    "What a fresh interpreter prints"
    run = subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True, check=True)
    return run.stdout


def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def versus(work, peer, ours, theirs, **goals):
    "Race two functions; the rate is that of the text"
    times = race(dict(ours=ours, theirs=theirs), REPEATS)
    return row(work, 'MB/s', mb/times['ours'], peer, mb/times['theirs'], **goals)


def split_rows():
    assert split(text) == regex.findall(GPT4_PATTERN, text)
    assert np.array_equal(np.diff(chunk_ends(text), prepend=0), [len(o.encode()) for o in split(text)])
    theirs = partial(regex.findall, GPT4_PATTERN, text)
    yield versus('split to byte offsets', 'regex.findall', partial(chunk_ends, text), theirs, bar=12, aim=20)
    yield versus('split to strings', 'regex.findall', partial(split, text), theirs, bar=1.5, aim=2.5)


def fastest(tik):
    "The fastest of tiktoken's ways to encode the text, and its name"
    ways = dict(encode_ordinary=tik.encode_ordinary, encode=tik.encode, encode_to_numpy=tik.encode_to_numpy)
    times = race({name: partial(f, text) for name, f in ways.items()}, REPEATS)
    name = min(times, key=times.get)
    return f'tiktoken.{name}', partial(ways[name], text)


def encode_rows():
    name, theirs = fastest(tik)
    yield versus('encode, warm cache', name, partial(tok.encode, text), theirs, bar=6, aim=12)
    loaded = [Tokenizer.load(model) for _ in range(REPEATS+1)]
    yield versus('encode, empty cache', name, lambda: loaded.pop().encode(text), theirs, bar=2.5, aim=6)
    parts = re.split(r'(?<=\n)(?=\S)', text)
    each = -(-len(parts)//16)
    texts = [''.join(parts[i:i+each]) for i in range(0, len(parts), each)]
    ours, theirs = partial(tok.encode_batch, texts, threads=2), partial(tik.encode_ordinary_batch, texts, num_threads=2)
    assert [o.tolist() for o in ours()] == theirs()
    yield versus('encode, 2 threads', 'tiktoken.encode_ordinary_batch', ours, theirs, bar=6, aim=12)


def train_rust(vocab_size):
    rust = rustbpe.Tokenizer()
    rust.train_from_iterator([text], vocab_size, pattern=GPT4_PATTERN)
    return rust


def train_rows():
    for size in (4096, 16384):
        ours = Tokenizer.train(text, size)
        if ours.vocab_size < size: left_out[f'train to {size:,}'] = f'the text holds {ours.vocab_size - 256:,} merges'
        else:
            assert [bytes(b) for b, _ in train_rust(size).get_mergeable_ranks()] == ours.vocab
            both = partial(Tokenizer.train, text, size), partial(train_rust, size)
            yield versus(f'train to {size:,}', 'rustbpe', *both, bar=4, aim=6)


def decode_rows():
    ours, theirs = tok.encode(text), tik.encode_ordinary(text)
    assert tok.decode(ours) == tok.decode(theirs) == tik.decode(theirs) == text
    yield versus('decode', 'tiktoken.decode', partial(tok.decode, ours), partial(tik.decode, theirs), bar=1, aim=3)
    yield versus('decode a list', 'tiktoken.decode', partial(tok.decode, theirs), partial(tik.decode, theirs))


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
    tok = Tokenizer.from_tiktoken(tik)
    assert tok.encode(text).tolist() == tik.encode_ordinary(text)
    name, theirs = fastest(tik)
    yield versus("encode, GPT-4's vocabulary", name, partial(tok.encode, text), theirs, bar=3, aim=8)


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
    yield row(f'{work} ({n:,} different chunks)', 'MB', size/1e6, bar=800, aim=400)


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
    for _ in range(REPEATS): around.append(seconds(lambda: inside.append(float(python(START, model)))))
    yield row('import, load, first encode', 's', statistics.median(inside), bar=1.2, aim=0.6)
    yield row('the same with the start and end of Python', 's', statistics.median(around))


p = argparse.ArgumentParser(description=__doc__)
p.add_argument('--corpus', default='datasets/cervantes.txt', help='text to measure on (%(default)s)')
p.add_argument('--gpt4_ranks', help="file of GPT-4's ranks in tiktoken's format (default: litellm's copy)")
p.add_argument('--big', action='store_true', help='also train on 1 GB of invented text, some minutes')
args = p.parse_args()

warnings.filterwarnings('ignore', message='the text holds')
text, left_out = Path(args.corpus).read_text(encoding='utf-8'), {}
mb = len(text.encode()) / 1e6
tok = Tokenizer.train(text, 4096)
tik = tiktoken.Encoding('ours', pat_str=GPT4_PATTERN, mergeable_ranks=tok.ranks, special_tokens={})
assert tok.encode(text).tolist() == tik.encode_ordinary(text) == tik.encode(text) == tik.encode_to_numpy(text).tolist()
with tempfile.TemporaryDirectory() as folder:
    tok.save(model := Path(folder)/'4096.model')
    parts = split_rows, encode_rows, train_rows, decode_rows, gpt4_rows, memory_rows, letter_rows, start_rows
    rows = list(itertools.chain.from_iterable(part() for part in parts))
report('tokenizer', rows, ['numba', 'numpy', 'regex', 'rustbpe', 'tiktoken'], corpus=Path(args.corpus).name,
       megabytes=round(mb, 2), left_out=left_out)
for work, why in left_out.items(): print(f'left out: {work} ({why})')
