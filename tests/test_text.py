"Chunks and ids are those of other engines: on all of Unicode, on real text, and on strings made to confuse them"
import inspect, random
from functools import cache
from importlib.metadata import version
from itertools import accumulate, pairwise, product

import numpy as np
import pytest
import regex

from mini_llm.bpe import Tokenizer
from mini_llm.engine.splitting import BREAK, LETTER, NUMBER, OTHER, SPACE, char_classes
from mini_llm.regex_split import CL100K_PATTERN, GPT4_PATTERN, chunk_blocks, chunk_ends, split, split_regex

PATTERNS = {'gpt4': GPT4_PATTERN, 'cl100k': CL100K_PATTERN}
both = pytest.mark.parametrize('pattern', PATTERNS.values(), ids=PATTERNS)
BYTES = [bytes([i]) for i in range(256)]
SCALARS = [chr(i) for i in range(0x110000) if not 0xd800 <= i < 0xe000]

# Letters and numbers to `regex` 2026.11.15, whose Unicode is newer, and not to tiktoken 0.14, as ranges of code points
NEWER_LETTERS = '''
  558 58b-58c 88f c5c cdc 208f 209d-209f a7ce-a7cf a7d2 a7d4 a7dd a7e2 a7f1 ab6c-ab6d 107bb-107bf
  10940-10959 10ec5-10ec7 10ed9-10eee 11b0a 11db0-11ddb 11df1 16ea0-16eb8 16ebb-16ed3 16ff2-16ff3
  187f8-187ff 18cd6-18cda 18d09-18d20 18d80-18df2 18e00-19191 191a0-191d2 1b123-1b128 1b168 1d6a6
  1df1f-1df24 1df2b-1df81 1df90-1df96 1dfcd-1dfff 1e6c0-1e6de 1e6e0-1e6e2 1e6e4-1e6e5 1e6e7-1e6ed
  1e6f0-1e6f4 1e6fe-1e6ff 2b73a-2b73f 2b81e 2cea2-2cead 323b0-33479 3d000-3fc3f'''
NEWER_NUMBERS = '11de0-11de9 1246f 12475-1247f 12550-12686 16ff4-16ff6'

def points(ranges):
    "The code points of ranges in hexadecimal"
    ends = [[int(o, 16) for o in r.split('-')] for r in ranges.split()]
    return [i for r in ends for i in range(r[0], r[-1]+1)]

OLDER = dict.fromkeys(points(NEWER_LETTERS + ' ' + NEWER_NUMBERS), '¿')

def chunks_of_regex(text, pattern):
    "The chunks of `regex`, which is shown the newer letters and numbers as what they are to tiktoken: neither"
    chunks = regex.findall(pattern, text.translate(OLDER))
    return [text[a:b] for a,b in pairwise(accumulate(map(len, chunks), initial=0))]


# Vocabularies and peers

@cache
def show_borders():
    "All pairs of bytes as tokens, first those with one byte of ASCII: ids show whether two bytes share a chunk"
    pairs = random.Random(0).sample([a+b for a in BYTES for b in BYTES], 65536)
    return BYTES + sorted(pairs, key=lambda p: p.isascii() or not any(b < 128 for b in p))

@pytest.fixture(scope='session')
def vocabs(root):
    text = (root/'datasets'/'cervantes.txt').read_text(encoding='utf-8')
    return [Tokenizer.train(text, 1024).vocab, show_borders()]

@pytest.fixture(scope='session')
def pairs_of_tokenizers(vocabs):
    "For each pattern our tokenizers, each with tiktoken's of the same vocabulary"
    tiktoken = pytest.importorskip('tiktoken')
    def peers(pattern, vocab):
        ours = Tokenizer(vocab, pattern)
        return ours, tiktoken.Encoding('x', pat_str=pattern, mergeable_ranks=ours.ranks, special_tokens={})
    return {pattern: [peers(pattern, vocab) for vocab in vocabs] for pattern in PATTERNS.values()}

def check_long(text, pattern, tokenizers):
    "Compare ends of chunks and ids on one long text"
    begins = np.append(np.flatnonzero(np.frombuffer(text.encode(), np.uint8) & 0xc0 != 0x80), len(text.encode()))
    ends = begins[np.cumsum([len(c) for c in regex.findall(pattern, text.translate(OLDER))], dtype=np.int64)]
    assert np.array_equal(chunk_ends(text, pattern), ends)
    for ours,peer in tokenizers:
        assert np.array_equal(ours.encode(text), peer.encode_to_numpy(text, disallowed_special=()))

def check_short(strings, pattern, tokenizers):
    "Compare chunks and ids on each of many strings"
    for s in strings:
        assert split(s, pattern) == chunks_of_regex(s, pattern), ascii(s)
        for ours,peer in tokenizers: assert ours.encode(s).tolist() == peer.encode_ordinary(s), ascii(s)


# The classes of code points

def test_classes_are_those_of_tiktoken():
    tiktoken = pytest.importorskip('tiktoken')
    def members(pattern):
        ranks = {b: i for i,b in enumerate(BYTES)}
        peer = tiktoken.Encoding('x', pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        return [ord(c) for c in peer.decode_bytes(peer.encode_ordinary(''.join(SCALARS))).decode()]
    expected = np.full(0x110000, OTHER)
    for pattern,kind in [(r'\p{L}', LETTER), (r'\p{N}', NUMBER), (r'\s', SPACE), (r'[\r\n]', BREAK)]:
        expected[members(pattern)] = kind
    assert np.array_equal(char_classes(), expected)

@pytest.mark.parametrize('pattern, kinds, newer', [
    (r'\p{L}', [LETTER], NEWER_LETTERS), (r'\p{N}', [NUMBER], NEWER_NUMBERS),
    (r'\s', [SPACE, BREAK], ''), (r'[\r\n]', [BREAK], '')])
def test_classes_are_those_of_regex_but_for_newer_characters(pattern, kinds, newer):
    theirs = {ord(c) for c in regex.findall(pattern, ''.join(SCALARS))}
    assert sorted(theirs - set(points(newer))) == np.flatnonzero(np.isin(char_classes(), kinds)).tolist()
    if version('regex') >= '2026': assert theirs.issuperset(points(newer)) # the list holds no others

def test_the_pattern_is_that_of_gpt4():
    public = pytest.importorskip('tiktoken_ext.openai_public')
    assert CL100K_PATTERN in inspect.getsource(public)


# Every code point

CONTEXTS = ['{}', 'a{}b', '1{}2', '12{}3', ' {} ', 'z {}z', 'z  {}', "'{}", "'{}z", "z'{}e", "'l{} ", "'s{}",
            '{}\n', '{}\r', '{}\r\n', 'z\n{}.', 'z\r{}.', 'z\r\n{}.', ' \n {}', ' {}.', ' .{}', '.{}\n', ' {}\n\n',
            '{0}{0}{0}{0} ', '\u00a0{}', '\u0301{}']

@cache
def borders():
    "The characters at which a class begins or ends, their neighbours, and all up to U+024F"
    at = np.flatnonzero(np.diff(char_classes()))
    near = {int(i) for d in (-1, 0, 1, 2) for i in at + d}
    near |= {0x7f, 0x80, 0x7ff, 0x800, 0xfffd, 0xffff, 0x10000, 0x10ffff}
    return [chr(i) for i in sorted(near | set(range(0x250))) if not 0xd800 <= i < 0xe000]

@pytest.mark.parametrize('context', CONTEXTS)
def test_every_code_point_between_others(context, pairs_of_tokenizers):
    check_long(''.join(map(context.format, SCALARS)), GPT4_PATTERN, [])
    for pattern,tokenizers in pairs_of_tokenizers.items():
        check_long(''.join(map(context.format, borders())), pattern, tokenizers)

@pytest.mark.slow
@both
@pytest.mark.parametrize('context', CONTEXTS)
def test_ids_of_every_code_point_between_others(context, pattern, pairs_of_tokenizers):
    check_long(''.join(map(context.format, SCALARS)), pattern, pairs_of_tokenizers[pattern])

@both
def test_code_points_alone_and_as_whole_texts(pattern, pairs_of_tokenizers):
    for context in ['{}', ' {}', '{} ', '{}\n', "'{}", '\n{}', 'a\n {}', '{}\r\n  ']:
        check_short(map(context.format, borders()), pattern, pairs_of_tokenizers[pattern][1:])

@pytest.mark.slow
@both
def test_every_code_point_alone(pattern, pairs_of_tokenizers):
    check_short(SCALARS, pattern, pairs_of_tokenizers[pattern][1:])


# Real text

def test_the_book(root, pairs_of_tokenizers):
    text = (root/'datasets'/'cervantes.txt').read_text(encoding='utf-8')
    for pattern,tokenizers in pairs_of_tokenizers.items():
        check_long(text, pattern, tokenizers)
        assert split(text, pattern) == chunks_of_regex(text, pattern)

def test_source_code(root, pairs_of_tokenizers):
    files = [p for folder in ('mini_llm', 'tests', 'tools') for p in sorted((root/folder).rglob('*.py'))]
    files += sorted((root/'nbs').glob('*.ipynb'))
    assert len(files) > 20
    for path in files:
        text = path.read_text(encoding='utf-8')
        for pattern,tokenizers in pairs_of_tokenizers.items(): check_long(text, pattern, tokenizers)
        check_long(text.replace('\n', '\r\n').replace('    ', '\t'), GPT4_PATTERN, pairs_of_tokenizers[GPT4_PATTERN])

SAMPLES = {
    'arabic': 'في قرية من قرى لامانشا، لا أريد أن أتذكر اسمها، عاش منذ زمن غير بعيد نبيلٌ… ١٢٣٤٥ و٪٦٧؟',
    'chinese': '不久以前，有位绅士住在拉曼却的一个村上，村名我不想提了。'
               '他那类绅士，一般都有一支长枪……共１２３４页「堂吉诃德」',
    'hindi': 'ला मांचा के एक गाँव में, जिसका नाम मैं याद नहीं करना चाहता, एक सज्जन रहते थे। क्षत्रिय श्री १२३४५',
    'thai': 'ณ หมู่บ้านแห่งหนึ่งในลามันช่า ซึ่งข้าพเจ้าไม่อยากจะจำชื่อ ๑๒๓๔๕ น้ำ ที่นี่ฯ',
    'emoji': '👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 ❤️ 🇪🇸🇫🇷 1️⃣2️⃣ 😀😀😀!\n👨‍💻 x😀y 3😀4\u200d\u200d 🏴󠁧󠁢󠁥󠁮󠁧󠁿',
    'marks': 'e\u0301 n\u0303o a\u0300\u0301\u0302 \u0301a 1\u0301 \u20dd. Vie\u0323\u0302t \u200da\u200c z̶a̷l̸g̵o̴',
    'white space': 'a  \n\n  b\t\tc \r\n \r d\u00a0\u00a0e \u2028\u2029 f '
                   '\u0085g\x0b\x0c h\u3000 i \x1c\x1f j\u200b\ufeff  ',
    'digits': '1 12 123 1234 12345 1234567890 3.14159 1,000,000 ١٢٣٤ '
              '½¼¾ ⅧⅨ ²³ 1a2b３４５６ ' + '7'*100,
    'contractions': "I'm you're he'S we'LL they've I'd don't 'tis rock'n'roll "
                    "'ſ 'ſt L'L 'lL 'v 'vé ''s '''s 're' ‘s 's",
}
ENDINGS = ['', ' ', '  ', '\n', '\n  ', ' \n', ' \n \n ', '\r', '\r\n', '\r\n\r\n', '\t', '\u00a0', '\u2028\n',
           "'", "'s", "'l",
           '1', '12', '.', '.\n', '. \n']

@both
@pytest.mark.parametrize('name', SAMPLES)
def test_scripts_and_their_ends(name, pattern, pairs_of_tokenizers):
    text = SAMPLES[name]
    beginnings = [text[:i] + end for i in range(len(text)+1) for end in (ENDINGS if i % 8 == 0 else [''])]
    check_short(beginnings, pattern, pairs_of_tokenizers[pattern])
    check_short([text[i:] for i in range(len(text))], pattern, pairs_of_tokenizers[pattern])

@both
def test_white_space_at_the_end_is_one_chunk_in_the_newer_pattern_only(pattern):
    assert split('a\n  ', pattern) == (['a', '\n  '] if pattern == CL100K_PATTERN else ['a', '\n', '  '])


# Strings made to confuse

LETTERS = ['a', 'Z', 's', 'S', 'd', 'm', 'T', 'll', 'LL', 'lL', 've', 'Re', 'l', 'e', 'ſ', 'K', 'ñ', 'ß', 'ʰ', 'ǅ', 'ª',
           '中', 'א', 'ก', 'ह', '𝒜', 'palabra', 'abcdefghijklmnop', 'abcdefghijklmno', 'ññññññññ']
NUMBERS = ['1', '12', '123', '1234', '٣', 'Ⅷ', '½', '²', '𝟘', '９']
SPACES = [' ', ' ', '  ', '   ', '\t', '\u00a0', '\u3000', '\u2028', '\u0085', '\x0b', '\x0c', '\u1680']
BREAKS = ['\n', '\n', '\r', '\r\n', '\n\n', ' \n', '\n ']
OTHERS = ["'", "'", '’', '.', '!', '...', '_', '-', '—', '€', '😀', '👩\u200d👧', '\u0301', '\u094d', '\u200d',
          '\ufe0f', '\0', '\x1c', '\x7f', '\u180e', '\u200b', '\ufeff',
          '\ufffd', '\ue000', '\U0010ffff', '\u0378', '\u0558', '\U00010940', '\U0001246f', '<|endoftext|>']
GENERATORS = [LETTERS + NUMBERS + SPACES + BREAKS + OTHERS, SPACES + BREAKS + ['a', '.'],
              ["'", "'"] + LETTERS[:16] + [' ', '\n'],
              NUMBERS + [' ', 'a', '.'], OTHERS + BREAKS + [' '], LETTERS + OTHERS[:6] + [' ', ' ']]

def confusing(n, seed):
    "Many short strings of pieces that stand at the borders of the pattern"
    rng = random.Random(seed)
    for i in range(n):
        if i % 8: yield ''.join(rng.choices(GENERATORS[i % len(GENERATORS)], k=rng.randint(1, 9)))
        else: yield ''.join(rng.choices(SCALARS, k=rng.randint(1, 6)))

@both
def test_all_short_strings_of_a_few_signs(pattern, pairs_of_tokenizers):
    strings = (''.join(o) for n in range(6) for o in product("as1'. \n\r", repeat=n))
    check_short(strings, pattern, pairs_of_tokenizers[pattern][1:])

@pytest.mark.slow
@both
def test_all_longer_strings_of_a_few_signs(pattern, pairs_of_tokenizers):
    check_short(map(''.join, product("as1'. \n\r", repeat=6)), pattern, pairs_of_tokenizers[pattern][1:])
    check_short(map(''.join, product("'lLvErſ ", repeat=6)), pattern, pairs_of_tokenizers[pattern][1:])

@both
def test_confusing_strings(pattern, pairs_of_tokenizers):
    check_short(confusing(20_000, 0), pattern, pairs_of_tokenizers[pattern])

@pytest.mark.slow
@both
@pytest.mark.parametrize('seed', range(1, 11))
def test_a_million_confusing_strings(seed, pattern, pairs_of_tokenizers):
    check_short(confusing(100_000, seed), pattern, pairs_of_tokenizers[pattern])

@both
def test_confusing_strings_in_one_text(pattern, pairs_of_tokenizers):
    text = ''.join(confusing(50_000, 'long'))
    check_long(text, pattern, pairs_of_tokenizers[pattern])
    assert split(text, pattern) == chunks_of_regex(text, pattern)

@both
def test_blocks_of_any_size_give_the_same_chunks(pattern):
    text = ''.join(confusing(500, 'blocks'))
    ends = chunk_ends(text, pattern)
    for size in (1, 2, 3, 7, len(ends)-1, len(ends), len(ends)+1):
        blocks = list(chunk_blocks(text, pattern, size))
        assert [start for _,start,_ in blocks] == [0, *(int(e[-1]) for _,_,e in blocks[:-1])]
        assert all(len(e) == size for _,_,e in blocks[:-1])
        assert np.array_equal(np.concatenate([e for _,_,e in blocks]), ends)


# Any pattern

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
OTHER_PATTERNS = [GPT2_PATTERN, f'(?:{GPT4_PATTERN})', f'(?:{CL100K_PATTERN})', r'\S+|\s+', r'[\s\S]',
                  r'(?s).{1,7}', r'(?s:.+)',
                  r'\X', r'(\w+)|(\W)', r'(?<=a)[\s\S]|[^a]+|a', r'|[\s\S]',
                  '(?x) \\p{Lu}? \\p{L}+ # words\n | \\P{L}',
                  r'\b|[\s\S]+?(?=\s|$)|\s']

def join_plainly(chunk, ranks):
    "Join the pair of lowest rank until there is none"
    if chunk in ranks: return [ranks[chunk]]
    parts = [bytes([b]) for b in chunk]
    while True:
        joined = [ranks.get(a+b, len(ranks)) for a,b in zip(parts, parts[1:])]
        if min(joined, default=len(ranks)) == len(ranks): return [ranks[p] for p in parts]
        i = joined.index(min(joined))
        parts[i:i+2] = [parts[i] + parts[i+1]]

@pytest.mark.parametrize('pattern', OTHER_PATTERNS)
def test_other_patterns_run_through_regex(pattern, vocabs):
    tok, compiled = Tokenizer(vocabs[0], pattern), regex.compile(pattern)
    for s in [*confusing(300, pattern), *SAMPLES.values()]:
        chunks = [m[0] for m in compiled.finditer(s) if m[0]]
        assert split(s, pattern) == split_regex(s, pattern) == chunks
        assert chunk_ends(s, pattern).tolist() == list(accumulate(len(c.encode()) for c in chunks))
        expected = [i for c in chunks for i in join_plainly(c.encode(), tok.ranks)]
        assert tok.encode(s).tolist() == expected and tok.encode(s).tolist() == expected, ascii(s) # new, and remembered
    assert tok._memories[0].known.used[0] > 0   # chunks are remembered here too

def test_other_patterns_on_the_book(root, vocabs):
    tiktoken = pytest.importorskip('tiktoken')
    text = (root/'datasets'/'cervantes.txt').read_text(encoding='utf-8')
    for pattern in (GPT2_PATTERN, f'(?:{GPT4_PATTERN})'):
        tok = Tokenizer(vocabs[0], pattern)
        peer = tiktoken.Encoding('x', pat_str=pattern, mergeable_ranks=tok.ranks, special_tokens={})
        assert tok.encode(text).tolist() == tok.encode(text).tolist() == peer.encode_ordinary(text)
