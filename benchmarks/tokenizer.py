"The tokenizer beside compiled ones: `python benchmarks/tokenizer.py [--corpus FILE]`; equal results are asserted before any time is taken"
import argparse
from pathlib import Path

import regex
import rustbpe
import tiktoken
from common import race, report, row

from mini_llm.bpe import Tokenizer
from mini_llm.regex_split import GPT4_PATTERN, split

p = argparse.ArgumentParser(description=__doc__)
p.add_argument('--corpus', default='datasets/cervantes.txt', help='text to measure on (%(default)s)')
p.add_argument('--vocab_size', type=int, default=1024, help='of the tokenizer (%(default)s)')
args = p.parse_args()

text = Path(args.corpus).read_text(encoding='utf-8')
mb = len(text.encode()) / 1e6
ours = Tokenizer.train(text, args.vocab_size)
tik = tiktoken.Encoding('ours', pat_str=GPT4_PATTERN, mergeable_ranks=ours.ranks, special_tokens={})
ids = tik.encode_ordinary(text)


def train_rust():
    rust = rustbpe.Tokenizer()
    rust.train_from_iterator([text], args.vocab_size, pattern=GPT4_PATTERN)
    return rust


def train_ours(): return Tokenizer.train(text, args.vocab_size)


def forget(): ours._cache.clear()


assert ours.encode(text).tolist() == ids and ours.decode(ids) == tik.decode(ids) == text
assert [bytes(b) for b, _ in train_rust().get_mergeable_ranks()] == ours.vocab
assert split(text) == regex.findall(GPT4_PATTERN, text)

cold = race({'ours': lambda: (forget(), ours.encode(text)), 'tiktoken': lambda: tik.encode_ordinary(text)})
races = [
    ('split', 'regex.findall', race({'ours': lambda: split(text), 'regex.findall': lambda: regex.findall(GPT4_PATTERN, text)})),
    (f'train to {args.vocab_size}', 'rustbpe', race({'ours': train_ours, 'rustbpe': train_rust})),
    ('encode, empty cache', 'tiktoken', cold),
    ('encode, warm cache', 'tiktoken', race({'ours': lambda: ours.encode(text), 'tiktoken': lambda: tik.encode_ordinary(text)})),
    ('decode', 'tiktoken', race({'ours': lambda: ours.decode(ids), 'tiktoken': lambda: tik.decode(ids)})),
]
report('tokenizer', [row(work, 'MB/s', mb/t['ours'], peer, mb/t[peer]) for work, peer, t in races],
       ['regex', 'rustbpe', 'tiktoken'], corpus=Path(args.corpus).name, megabytes=round(mb, 2))
