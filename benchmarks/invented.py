"""Text that nobody wrote: words invented in five scripts, as often as Zipf's law says.
`python benchmarks/invented.py FILE [--bytes N]`"""
import argparse
from pathlib import Path

import numpy as np

ALPHABETS = ('etaoinsrhdlucmfywgpbvk', 'оеаинтсрвлкмдпуяыьгз', 'αοιετσνηυρπκμλωδγχ', 'कखगचजटडतदनपबमयरलवशसह',
             '的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年')
WORDS = 4_000_000
LETTERS = 8    # at most, in a word


def words(rng):
    "A row of bytes for each word, from the most frequent on; zeros follow the last letter"
    width = max(len(a) for a in ALPHABETS)
    spelled = np.array([[(a*width)[i].encode() for i in range(width)] for a in ALPHABETS], 'S3')
    script = rng.choice(len(ALPHABETS), WORDS, p=[0.5, 0.2, 0.1, 0.1, 0.1])
    res = spelled[script[:, None], rng.integers(0, width, (WORDS, LETTERS), np.int8)]
    longest = np.minimum(LETTERS, 2 + np.log2(np.arange(1, WORDS + 1)).astype(int)//3)   # frequent words are short
    res[np.arange(LETTERS) >= rng.integers(1, longest + 1)[:, None]] = b''
    return res.view(np.uint8)


def breaks(rng):
    "A row of bytes for each thing that can follow a word, all as likely"
    numbers = [f' {n} ' for n in rng.integers(0, 10_000, 20)]
    marks = [' ']*600 + [', ']*60 + ['. ']*30 + ['\n']*40 + ['; ', ': ', ' (', ') ', '... ', '\n\n', '-', "'s "]*4
    return np.array([o.encode() for o in marks + numbers])[:, None]


def write(path, size, seed=1):
    "Write at least `size` bytes of invented text"
    rng = np.random.default_rng(seed)
    rows, between, left = words(rng), breaks(rng), size
    with open(path, 'wb') as f:
        while left > 0:
            rank = ((WORDS + 1) ** rng.random(1_000_000)).astype(np.int64) - 1   # rank r with a share of about 1/(r+1)
            text = np.hstack([rows[rank], rng.choice(between, len(rank)).view(np.uint8)])
            left -= f.write(text[text > 0].tobytes())


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('file', type=Path)
    p.add_argument('--bytes', type=int, default=10**9, help='how many (%(default)s)')
    args = p.parse_args()
    write(args.file, args.bytes)
