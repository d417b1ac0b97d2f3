"""Random text and damaged files, seeded and counted: the right value or a ValueError that says what is wrong; never a
crash, another exception, or a file that has changed. `pytest tests/test_fuzz.py --slow` tries a million of each kind"""
import json
import random
import re

import numpy as np
import pytest

from mini_llm.bpe import END_OF_TEXT, Tokenizer
from mini_llm.engine.checkpoint import load_state, save_state
from mini_llm.engine.decoding import Decoder, Unsupported
from mini_llm.engine.layout import complete, load_model, read_shape, save_model, tensor_shapes
from mini_llm.workshop.dataset import encode_corpus, load_tokens

FEW, MANY = 300, 1_000_000
LONG = pytest.mark.slow, pytest.mark.timeout(3*3600)
amounts = pytest.mark.parametrize('amount', [FEW, pytest.param(MANY, marks=LONG)])
TEXT = 'En un lugar de la Mancha, de cuyo nombre no quiero acordarme, no ha mucho tiempo que vivía un hidalgo. ' * 30
PIECES = [*"aeiñó' \n\t.,¿?0193中яא٣", ' ', '  ', '\r\n', 'que', ' de', "'s", "'LL", 'ſ', '\u00a0', '\u0301', '\u200d',
          '👩\u200d👧', '\0', '\x1c', '\ufeff', '\U0010ffff', END_OF_TEXT, '<|', 'a'*70, ' '*70]
VALUES = [None, True, False, 0, -1, 1, 2, 0.5, 1e999, -1e999, float('nan'), 10**30, '', 'x', '1', 'ñ\0', [], [1], {},
          {'a': 1}, 2**31, 2**63, [[]], {'': None}]
TOKENS = [b'', b'\0', b'\xff', b'"', b'\\', b'{', b'}', b'[', b']', b',', b':', b'\n', b'\r\n', b'NaN', b'-1', b'1e999',
          b'null', b'true', b'0', b'9'*40, b'9'*5000, b'[' * 20_000, b'{"a":' * 20_000, b'\xf0\x9f\x98\x80',
          b'\xed\xa0\x80']


@pytest.fixture
def rng(): return random.Random(2026)


def flipped(data, rng):
    "One bit is another"
    data = bytearray(data)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def edited(data, rng):
    "Something is missing, doubled, moved, or replaced by what is seldom expected"
    i, j = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    if rng.random() < .7: j = min(j, i + rng.randrange(9))
    noise = rng.randbytes(min(j - i, 99))
    return data[:i] + rng.choice([b'', rng.choice(TOKENS), data[i:j]*2, noise]) + data[j:]


def replaced(value, rng):
    "The same JSON with one value, or one name, that is another"
    if isinstance(value, dict) and value and rng.random() < .9:
        key = rng.choice(list(value))
        if rng.random() < .1: return {k: v for k, v in value.items() if k != key}
        if rng.random() < .1: return {('x' if k == key else k): v for k, v in value.items()}
        return value | {key: replaced(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < .7: return [replaced(value[0], rng), *value[1:]]
    if isinstance(value, (int, float)) and rng.random() < .3:
        return rng.choice([value + 1, value - 1, -value, value*2, str(value), value + .5])
    return rng.choice(VALUES)


def damages(data, rng, amount, is_json=False):
    "Truncations, bit flips and edits: all truncations and 10,000 flips where there is time"
    cuts = range(len(data)) if amount > FEW else rng.sample(range(len(data)), min(len(data), amount//3))
    yield from (data[:n] for n in cuts)
    flips = min(amount//3, 10_000)
    yield from (flipped(data, rng) for _ in range(flips))
    for _ in range(max(0, amount - len(cuts) - flips)):
        if is_json and rng.random() < .7: yield json.dumps(replaced(json.loads(data), rng)).encode()
        else: yield edited(data, rng)


def contents(folder): return {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}


class Trials:
    "Loads one damaged file after another, and counts"
    def __init__(self, record): self.record, self.tried, self.read = record, 0, 0

    def run(self, path, load, spoiled, check=lambda value: None):
        before = contents(path.parent)
        for data in spoiled:
            path.write_bytes(data)
            self.tried += 1
            try: value = load(path)
            except ValueError as e: assert str(e).strip()
            else:
                self.read += 1
                check(value)
            assert path.read_bytes() == data
            if not self.tried % 1000: assert contents(path.parent) == before | {path: data}
        path.write_bytes(before[path])
        load(path)
        assert contents(path.parent) == before
        self.record('tried', self.tried)


@pytest.fixture
def trials(record_property): return Trials(record_property)


@pytest.fixture(scope='module')
def tok(): return Tokenizer.train(TEXT, 290, special_tokens=[END_OF_TEXT])


# --- the tokenizer

@amounts
def test_any_text_comes_back(tok, rng, record_property, amount):
    for _ in range(amount):
        text = ''.join(rng.choices(PIECES, k=rng.randrange(12)))
        ids = tok.encode(text, rng.choice([(), 'all']))
        assert tok.decode(ids) == text
    record_property('tried', amount)


@amounts
def test_any_ids_are_decoded_or_refused(tok, rng, record_property, amount):
    for _ in range(amount):
        ids = [rng.randrange(tok.n_vocab) for _ in range(rng.randrange(12))]
        data = tok.decode_bytes(ids)
        assert tok.decode(ids) == data.decode('utf-8', 'replace')
        assert tok.decode_bytes(np.array(ids, np.int32)) == data
        wrong = [*ids, rng.choice([-1, tok.n_vocab, 2**31, 2**63, -2**70])]
        with pytest.raises(ValueError): tok.decode(wrong)
    record_property('tried', 2*amount)


@amounts
def test_tokenizer_files(tok, rng, trials, tmp_path, amount):
    tok.save(path := tmp_path/'x.model')
    def check(other): assert other.decode(other.encode('En un lugar <|')) == 'En un lugar <|'
    amount = min(amount, 100_000)       # each takes milliseconds
    trials.run(path, Tokenizer.load, damages(path.read_bytes(), rng, amount), check)


# --- token files

@pytest.fixture
def tokens(tok, tmp_path):
    tok.save(tmp_path/'small290.model')
    encode_corpus(tmp_path/'small290.model', [TEXT], tmp_path/'small')
    return tmp_path/'small'


@amounts
def test_facts_of_token_files(tokens, rng, trials, amount):
    def check(data): assert len(data.train) + len(data.val) > 0
    path = tokens/'meta.json'
    spoiled = damages(path.read_bytes(), rng, amount, is_json=True)
    trials.run(path, lambda path: load_tokens(path.parent), spoiled, check)


@amounts
@pytest.mark.parametrize('name', ['train.bin', 'val.bin', 'tokenizer.model'])
def test_ids_of_token_files(tokens, rng, trials, name, amount):
    path = tokens/name
    def check(data): assert path.stat().st_size == len(good)        # nothing but other ids of the same number
    good = path.read_bytes()
    trials.run(path, lambda path: load_tokens(path.parent), damages(good, rng, min(amount, 100_000)), check)


# --- models and checkpoints

@pytest.fixture
def model(tmp_path):
    fields = complete(dict(vocab_size=3, context_length=4, n_layer=1, n_head=1, n_kv_head=None, n_embd=16,
                           head_dim=None, n_ff=16, dropout=.1, rope_theta=10_000., norm_eps=1e-6))
    draw = np.random.default_rng(0)
    tensors = {k: draw.normal(size=v).astype(np.float32) for k, v in tensor_shapes(fields).items()}
    save_model(tmp_path/'run', fields, tensors)
    return tmp_path/'run'


@amounts
def test_shapes_of_models(model, rng, trials, amount):
    path = model/'config.json'
    def check(fields): assert complete(fields) == fields and all(isinstance(v, (int, float)) for v in fields.values())
    spoiled = damages(path.read_bytes(), rng, amount, is_json=True)
    trials.run(path, lambda path: read_shape(path.parent), spoiled, check)


@amounts
def test_weights_of_models(model, rng, trials, amount):
    path = model/'model.safetensors'
    def check(found):
        fields, tensors = found
        assert {k: v.shape for k, v in tensors.items()} == tensor_shapes(fields)
        assert all(np.isfinite(v).all() for v in tensors.values())
    trials.run(path, lambda path: load_model(path.parent), damages(path.read_bytes(), rng, amount), check)


@amounts
@pytest.mark.parametrize('name', ['config.json', 'model.safetensors'])
def test_models_load_or_are_refused(model, rng, trials, name, amount):
    "The same by the doors that users take: a damaged shape never builds a model that fills the memory"
    from mini_llm.gpt import GPT
    path = model/name
    def both(path):
        "What one door opens, the other does, unless it says that it does not know this kind"
        try: fast = Decoder(path.parent)
        except Unsupported: fast = None
        except ValueError:
            with pytest.raises(ValueError): GPT.load(path.parent)
            raise
        slow = GPT.load(path.parent)
        assert not fast or fast.cfg.n_layer == slow.cfg.n_layer
    trials.run(path, both, damages(path.read_bytes(), rng, min(amount, 30_000), is_json=name == 'config.json'))


@amounts
def test_checkpoints_are_as_they_were_or_refused(rng, trials, tmp_path, amount):
    import torch
    path, info = tmp_path/'state.safetensors', dict(step=3, text='ñ "quoted" {}', list=[1, [2.5, None]])
    tensors = dict(a=torch.arange(6.).reshape(2, 3), b=torch.tensor(5), c=torch.ones(3, dtype=torch.bfloat16),
                   d=torch.zeros(0))
    save_state(path, tensors, info)
    def values(tensors): return {k: (t.dtype, t.tolist()) for k, t in tensors.items()}
    def check(found): assert found[1] == info and values(found[0]) == values(tensors)
    trials.run(path, load_state, damages(path.read_bytes(), rng, amount), check)


def test_damage_is_of_every_kind(rng):
    "What the other tests try: the same each time, nearly always different from the original, and much of it still JSON"
    data = json.dumps(dict(a=1, b=dict(c=[1.5, 'x'], d=None))).encode()
    tried = list(damages(data, rng, 1000, is_json=True))
    assert tried == list(damages(data, random.Random(2026), 1000, is_json=True)) and len(set(tried)) > 300
    assert sum(bool(re.match(rb'\{.*\}$', o, re.DOTALL)) for o in tried) > 300
