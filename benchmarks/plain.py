"""The plain functions of the notebooks beside the fast ones: `python benchmarks/plain.py`. Equal results are asserted
before any time is taken"""
import argparse
import ast
import json
from collections import Counter
from itertools import count, islice
from math import inf
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from common import race, report, row

from mini_llm.bpe import Tokenizer, count_chunks, learn_merges
from mini_llm.engine.splitting import ChunkTable
from mini_llm.regex_split import chunk_blocks, split, split_regex

ROOT = Path(__file__).resolve().parents[1]
MERGES = 100    # the plain way looks at every chunk for each


def taught(notebook, *names):
    "Functions that a notebook defines in order to teach, and does not export"
    cells = json.loads((ROOT/'nbs'/notebook).read_text('utf-8'))['cells']
    sources = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    trees = [ast.parse(s) for s in sources if any(f'def {name}(' in s for name in names)]
    found = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    space = dict(Counter=Counter, count=count, inf=inf)
    exec(compile(ast.Module(found, []), notebook, 'exec'), space)
    return SimpleNamespace(**{name: space[name] for name in names})


argparse.ArgumentParser(description=__doc__).parse_args()
text = (ROOT/'datasets/cervantes.txt').read_text('utf-8')
mb = len(text.encode()) / 1e6
plain = taught('01_bpe.ipynb', 'pairs', 'best_pair', 'merge_pair', 'learn_naive', 'encode_naive')
tok = Tokenizer.load(ROOT/'tokenizer_models/cervantes1024.model')
chunks, blocks, ids = split(text), list(chunk_blocks(text)), tok.encode(text)
table = count_chunks(text)
counts = dict(zip(table.chunks, table.counts.tolist()))


def number_plain():
    numbers = {}
    return [numbers.setdefault(chunk, len(numbers)) for chunk in chunks]


def number_fast():
    table = ChunkTable()
    return np.concatenate([table.number(*block) for block in blocks])


def learn_plain(): return [[*pair, n] for pair, n in islice(plain.learn_naive(counts), MERGES)]


def learn_fast(): return learn_merges(table, MERGES)


def encode_plain(): return [i for chunk in split_regex(text) for i in plain.encode_naive(chunk.encode(), tok.ranks)]


def encode_fast(): return tok.encode(text)


def decode_plain(): return b''.join([tok.vocab[i] for i in ids]).decode()


def decode_fast(): return tok.decode(ids)


races = [('split to a list', lambda: split_regex(text), lambda: split(text)),
         ('number chunks', number_plain, number_fast), (f'learn {MERGES} merges', learn_plain, learn_fast),
         ('encode', encode_plain, encode_fast), ('decode', decode_plain, decode_fast)]
rows = []
for work, slow, fast in races:
    assert np.array_equal(slow(), fast()), work
    times = race(dict(fast=fast, plain=slow), repeats=3)
    rows.append(row(work, 'MB/s', mb/times['fast'], 'plain', mb/times['plain']))
report('plain', rows, ['numba', 'numpy', 'regex'], corpus='cervantes.txt', megabytes=round(mb, 2))
