"Exercises: `check` takes every right answer, and knows every wrong one it claims to know; two change the library"
import ast
import contextlib
import json
import re
import shutil
import sys
from importlib import import_module
from symtable import symtable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import ROOT, begin, end
from torch import nn

from mini_llm.attention import Attention, KVCache, apply_rope, causal_mask, rope_table
from mini_llm.bpe import Tokenizer
from mini_llm.gallery.exercises import _EXERCISES, check, judge
from mini_llm.generate import min_p_only, softmax, top_k_only, top_p_only, window, with_temperature
from mini_llm.gpt import GPT, GPTConfig, count_parameters

SPANISH = r"[^\r\n\p{L}\p{N}¿¡]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"


def longest(chunk, vocab):
    "Encode by the longest match"
    ranks, ids = {b: i for i, b in enumerate(vocab)}, []
    while chunk:
        n = next(n for n in range(len(chunk), 0, -1) if chunk[:n] in ranks)
        ids, chunk = [*ids, ranks[chunk[:n]]], chunk[n:]
    return ids


def leaks(f):
    "Change the future of every place, and see whether something before it moves"
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 6, 4)
    def mixed(i): return (torch.cat([x[:i], y[i:]]) for x, y in zip(a, b))
    return any(not torch.allclose(f(*a)[:i], f(*mixed(i))[:i], atol=1e-5) for i in range(1, 6))


def last_place_only(f):
    "A detector that changes the last place and looks at no other"
    q, k, v = torch.randn(3, 6, 4)
    a, b = f(q, k, v), f(*(torch.cat([o[:-1], o[-1:] + 1]) for o in (q, k, v)))
    return not torch.allclose(a[:-1], b[:-1], atol=1e-5)


def in_pieces(tok, ids):
    "Text in pieces, half a letter held back"
    held = b''
    for i in ids:
        held += tok.token_bytes(i)
        try: piece = held.decode()
        except UnicodeDecodeError: continue
        yield piece
        held = b''


def masked(q, k, v, scale=2**.5, mask=True, dim=-1):
    scores = q @ k.mT / scale
    return (scores.masked_fill(~causal_mask(len(q)), -torch.inf) if mask else scores).softmax(dim) @ v


def by_hand(**kw):
    q, k, v = torch.tensor([[[1,0],[0,1],[1,1]], [[1,0],[1,1],[0,2]], [[1,0],[0,1],[2,2]]], dtype=torch.float)
    return masked(q, k, v, **kw).tolist()


def half_rotated():
    "How much a score changes over all positions, when only the query is turned"
    torch.manual_seed(0)
    cos, sin = rope_table(64, 2)
    x = F.normalize(torch.randn(2), dim=-1)
    scores = apply_rope(x.expand(64, 2), cos, sin) @ x
    return (scores.max() - scores.min()).item()


def wrong_rows(start0=False, unmasked=False):
    "Which rows of attention in two pieces differ from attention in one"
    torch.manual_seed(0)
    attn, x, cache, out = Attention(16, n_head=2), torch.randn(1, 8, 16), KVCache(1, 2, 8, 8), []
    cos, sin = rope_table(8, 8)
    for piece in x.split(4, 1):
        start = cache.length
        q, k, v = attn.project(piece, cos, sin, 0 if start0 else start)
        k, v = cache.append(k, v)
        mask = causal_mask(4, start) if start and not unmasked else None
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=not start)
        out.append(attn.o_proj(y.transpose(1, 2).flatten(2)))
    pieces, whole = torch.cat(out, 1)[0], attn(x, cos, sin)[0]
    return [i for i in range(8) if not torch.allclose(pieces[i], whole[i], atol=1e-5)]


@torch.no_grad()
def stream_size(n_layer):
    "Of the stream after the last block, without attention, when no branch starts smaller"
    torch.manual_seed(0)
    model = GPT(GPTConfig(1024, n_layer=n_layer, n_embd=256))
    for n, p in model.named_parameters():
        if n.endswith('o_proj.weight'): nn.init.zeros_(p)
        if n.endswith('down_proj.weight'): nn.init.normal_(p, std=.02)
    x = model.embed_tokens(torch.randint(1024, (4, 64)))
    for block in model.layers: x = block(x, model.cos, model.sin)
    return x.square().mean().sqrt().item()


def gradients_of_24(post, scale=1):
    "Of the first block of 24 and the last, with norms on the stream or before the branches"
    torch.manual_seed(0)
    model, ids = GPT(GPTConfig(256, n_layer=24, n_head=2, n_embd=64)), torch.randint(256, (8, 65))
    x = model.embed_tokens(ids[:, :-1]) * scale
    for b in model.layers:
        if not post: x = b(x, model.cos, model.sin); continue
        x = b.input_layernorm(x + b.self_attn(x, model.cos, model.sin))
        x = b.post_attention_layernorm(x + b.mlp(x))
    logits = model.norm(x) @ model.embed_tokens.weight.T
    F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    return [model.layers[i].mlp.down_proj.weight.grad.norm().item() for i in (0, -1)]


def first_gradient(post, scale=1): return gradients_of_24(post, scale)[0]


def left():
    "How many tokens three filters leave of a sure and of an unsure model"
    tail = np.linspace(1.2, .8, 99)
    sure, unsure = np.log(np.r_[.9, .1 * tail/tail.sum()]), np.log(np.linspace(1.2, .8, 100) / 100)
    filters = (lambda x: top_k_only(x, 5)), (lambda x: top_p_only(x, .95)), (lambda x: min_p_only(x, .1))
    return [tuple(int((f(x) > -np.inf).sum()) for x in (sure, unsure)) for f in filters]


def in_order():
    "How many tokens top-p leaves after temperature, and before it"
    x = np.log([.5, .3, .15, .05])
    first = top_p_only(with_temperature(x, 2), .75)
    last = with_temperature(top_p_only(x, .75), 2)
    return tuple(int((softmax(o) > 0).sum()) for o in (first, last))


def tokens_read():
    reading = window(range(8), 64)
    return len(next(reading)[0]) + sum(len(reading.send(0)[0]) for _ in range(999))


def count():
    counts = count_parameters(GPT(GPTConfig(1025, n_layer=4, n_head=2, n_embd=128)))
    return {k: counts[k] for k in ('embedding', 'attention', 'mlp', 'norms', 'total')}


def muon_sizes(scale=1, divide=True, steps=5):
    "Singular values after Muon's iteration"
    X = torch.diag(torch.tensor([5., 1., .1, .01])) * scale
    if divide: X = X / X.norm()
    for _ in range(steps):
        A = X @ X.T
        X = 3.4445*X + (-4.7750*A + 2.0315*A@A) @ X
    return torch.linalg.svdvals(X).tolist()


def without_averages():
    "At which step after a resume the loss first differs, if the optimizer's averages were not saved"
    torch.manual_seed(0)
    model, x = nn.Linear(4, 1), torch.randn(8, 4)
    opt = torch.optim.AdamW(model.parameters(), .1)
    def step(m, o):
        loss = (m(x) - 1).square().mean()
        o.zero_grad(); loss.backward(); o.step()
        return loss.item()
    for _ in range(5): step(model, opt)
    other = nn.Linear(4, 1)
    other.load_state_dict(model.state_dict())
    fresh = torch.optim.AdamW(other.parameters(), .1)
    return next(i for i in range(1, 9) if abs(step(model, opt) - step(other, fresh)) > 1e-6)


def mancha():
    tok = Tokenizer([bytes([i]) for i in range(256)])
    return [o for piece in ('la ', 'M', 'an', 'cha') for o in tok.encode(piece).tolist()]


RIGHT = {
    '00.1': lambda: ['—¡', 'Señor', '!', ' ', ' —', 'dijo', ' en', ' ', '160', '5', '.\n\n', 'Y'],
    '00.2': lambda: SPANISH, '00.3': lambda: 749, '00.4': lambda: ['spaces', 'line_break'],
    '01.1': lambda: [((97,97), 7), ((97,98), 3), ((256,98), 3)], '01.2': lambda: longest,
    '01.3': lambda: list(' lugar'.encode()),
    '01.4': lambda: in_pieces,
    '02.1': by_hand, '02.2': lambda: leaks, '02.3': half_rotated,
    '02.4': lambda: (wrong_rows(start0=True), wrong_rows(unmasked=True)),
    '03.1': count, '03.2': lambda: np.log(50256 + np.exp(.02*768)), '03.3': lambda: stream_size(32) / stream_size(2),
    '03.4': lambda: [first_gradient(False, s) / first_gradient(True, s) for s in (1, 64)],
    '04.1': lambda: 2.95 * 2.3 * np.log(2), '04.2': lambda: (muon_sizes(), muon_sizes(1000)),
    '04.3': without_averages, '04.4': lambda: (3/8, 5/8),
    '05.1': left, '05.2': in_order, '05.3': tokens_read, '05.4': mancha,
}

WRONG = [
    ('00.1', ['—¡Señor', '!', ' ', ' —', 'dijo', ' en', ' ', '160', '5', '.\n\n', 'Y'], 'only \\*one\\* mark'),
    ('00.1', ['—¡', 'Señor', '!', ' ', ' —', 'dijo', ' en', ' 160', '5', '.\n\n', 'Y'], 'does not take the space'),
    ('00.1', ['—¡', 'Señor', '!', ' ', ' —', 'dijo', ' en', ' ', '1605', '.\n\n', 'Y'], 'three digits'),
    ('00.1', ['—¡', 'Señor', '!', ' ', ' —', 'dijo', ' en', ' ', '160', '5', '.', '\n\n', 'Y'],
     'line breaks that follow'),
    ('00.1', ['—¡', 'Señor', '!', '  ', '—dijo', ' en', ' ', '160', '5', '.\n\n', 'Y'], 'leaves its last space'),
    ('00.1', ['—¡', 'Señor', '!', ' ', ' —dijo', ' en', ' ', '160', '5', '.\n\n', 'Y'], 'no word can begin'),
    ('00.1', ['—¡', 'Señor'], 'nothing may be lost'),
    ('00.1', ['—', '¡Señor', '!', ' ', ' —', 'dijo', ' en', ' ', '160', '5', '.\n\n', 'Y'], 'one by one'),
    ('00.2', SPANISH.replace('¿¡', ''), 'neither'), ('00.2', "'(?i:[sdmt])|" + SPANISH, 'contractions'),
    ('00.2', SPANISH.replace('[^\\r\\n\\p{L}\\p{N}¿¡]?+', ''), '120,715 chunks'),
    ('00.2', SPANISH.replace('[^\\r\\n\\p{L}\\p{N}¿¡]?+', ' ?'), 'has come apart'), ('00.2', r'\p{L}+', 'drops'),
    ('00.2', SPANISH.replace('[^\\r\\n\\p{L}\\p{N}¿¡]?+', '[ —]?'), "'delante` has come apart"),
    ('00.2', SPANISH.replace('¿¡', '¿¡('), 'dijo` has come apart'),
    ('00.3', 750, 'differs, too'), ('00.3', [749], 'whole number'), ('00.3', ' ', 'whole number'),
    ('00.3', -1, 'borders moved'), ('00.3', 12, 'two spaces'),
    ('00.4', 'word', 'nothing stands behind'), ('00.4', ['punctuation', 'spaces'], 'none is enough'),
    ('00.4', ['spaces'], 'leave a line break'), ('00.4', ['line_break'], 'last space of a gap'),
    ('00.4', ['contraction'], 'no quantifier'), ('00.4', 17, 'cannot be used'), ('00.4', ['verb'], 'name pieces'),
    ('01.1', [(97,97), (97,98), (256,98)], 'with its count'), ('01.1', [((97,97), 7)], 'three merges'),
    ('01.1', [((97,98), 6), ((97,97), 5), ((97,256), 5)], 'overlap'),
    ('01.1', [((97,97), 5), ((97,98), 3), ((256,98), 3)], 'overlap'),
    ('01.1', [((97,97), 7), ((256,98), 3), ((97,98), 3)], 'tie'),
    ('01.1', [((97,97), 7), ((97,98), 3), ((256,257), 3)], 'count anew'),
    ('01.2', lambda chunk, vocab: Tokenizer(vocab).encode(chunk.decode()).tolist(), 'by rank'),
    ('01.2', lambda chunk, vocab: list(chunk), 'hidalgo'), ('01.2', lambda chunk, vocab: [97], 'does not come back'),
    ('01.3', [343], 'as they were'), ('01.3', [195], 'no text'), ('01.3', [1024], 'special token'),
    ('01.3', [100, 101], 'three at least'), ('01.3', list(b'ordenador'), 'no chunk'),
    ('01.4', lambda tok, ids: [tok.decode([i]) for i in ids], 'by itself'),
    ('01.4', lambda tok, ids: [bytes([i]).decode(errors='ignore') for i in ids], 'lost in silence'),
    ('01.4', lambda tok, ids: [tok.decode(ids)], 'one piece'), ('01.4', lambda tok, ids: 'x', "pieces are 'x'"),
    ('01.4', lambda tok, ids: tok.decode_stream(ids), "chapter's own"),
    ('02.1', by_hand(scale=1), 'root'), ('02.1', [by_hand(mask=False)[0], [.33, .67], [1, 1.203]], 'looks ahead'),
    ('02.1', [[.401, 0], [.33, .67], [1, 1.203]], 'columns'),
    ('02.1', [[1, 0], [.5, .5], [1, 1]], 'second row'), ('02.1', [[1, 0], [.33, .67], [1.01, 1.4]], 'third row'),
    ('02.1', [[1, 1], [.33, .67], [1, 1.203]], 'first row'), ('02.1', [[1, 0], [.3, .7], [1, 1.2]], 'two digits'),
    ('02.1', [[1, 0], [.33, .67], by_hand(scale=1)[2]], 'root'),
    ('02.1', [[1, 0]], 'three rows'),
    ('02.2', lambda f: True, 'accuses'), ('02.2', lambda f: False, 'one too wide'),
    ('02.2', last_place_only, 'one hole'),
    ('02.2', lambda f: not torch.allclose(f(*(o := torch.randn(3, 6, 4))), masked(*o, scale=2)), 'running sum'),
    ('02.3', -2, 'no sign'), ('02.3', 1, 'other way'), ('02.3', .97, 'heads of 2'),
    ('02.3', 0, 'not enough'), ('02.3', .3, 'measure it'),
    ('02.4', ([5, 6, 7, 8], [5, 6, 7]), 'from 0'),
    ('02.4', ([4, 5, 6], [4, 5, 6]), 'wrong distances'),
    ('02.4', ([4,5,6,7], [4,5,6,7]), 'the last row'),
    ('02.4', ([4,5,6,7], [0]), 'done by then'),
    ('03.1', dict(embedding=131_200, attention=262_144, mlp=589_824, norms=1_664, total=984_832+131_200),
     'not counted again'),
    ('03.1', dict(embedding=131_200, attention=262_144, mlp=393_216, norms=1_664, total=788_224), 'three matrices'),
    ('03.1', dict(embedding=131_200, attention=262_144, mlp=589_824, norms=1_152, total=984_320), 'queries and keys'),
    ('03.1', dict(embedding=131_072, attention=262_144, mlp=589_824, norms=1_664, total=984_704), 'embedding'),
    ('03.1', (131_200, 262_144, 523_776, 1_664, 918_784), '384 and not 341'),
    ('03.1', dict(embedding=131_200, attention=262_144, mlp=589_824, norms=2_176, total=985_344), 'all heads share'),
    ('03.1', dict(embedding=131_200, attention=262_144, mlp=589_824, norms=1_536, total=984_704), 'one more norm'),
    ('03.1', dict(embedding=131_200, attention=196_608, mlp=589_824, norms=1_664, total=919_296), 'fourth matrix'),
    ('03.1', (1, 2), 'cannot be used'),
    ('03.2', 10.82, 'knows nothing'), ('03.2', 22.17, 'in bits'), ('03.2', 3., 'minus the logarithm'),
    ('03.3', 16, 'root of 16'),
    ('03.3', 6, 'that is with attention'),
    ('03.3', 1.6, 'take 256'),
    ('03.3', 1.05, 'smaller start'),
    ('03.3', 100, 'measure'),
    ('03.4', (1, 1), 'not the same function'), ('03.4', (24, 24), 'compare'), ('03.4', 69.6, 'cannot be used'),
    ('03.4', (14.5, 1), 'against the last'), ('03.4', (.42, 1), 'against the last'),
    ('03.4', (2.4, 1), 'against the last'),
    ('03.4', (1/69.6, 1), 'other way up'), ('03.4', (69.6, 69.4), '64 times as large, too'),
    ('04.1', .889, 'larger'), ('04.1', 6.785, 'in bits'), ('04.1', 1.283, 'divided twice'), ('04.1', 5, 'times ln 2'),
    ('04.2', ([5, 1, .1, .01], [5, 1, .1, .01]), 'do not stay'),
    ('04.2', ([1, .2, .02, .002], [1, .2, .02, .002]), 'only the beginning'),
    ('04.2', (muon_sizes(steps=0), muon_sizes(steps=0)), 'only the beginning'),
    ('04.2', ([1, 1, 1, 1], [1, 1, 1, 1]), 'which four numbers'),
    ('04.2', (muon_sizes(), [847, 797, 723, 684]), 'left of the factor'),
    ('04.2', ([9, 9, 9, 9], [9, 9, 9, 9]), 'comes out between'), ('04.2', muon_sizes(), 'cannot be used'),
    ('04.3', 1, 'before anything moves'), ('04.3', -1, 'does differ'), ('04.3', 5, 'already goes elsewhere'),
    ('04.4', (.5, .5), 'equally large'),
    ('04.4', (5/8, 3/8), 'other way'),
    ('04.4', (1, 1), 'twice'),
    ('04.4', (3, 5), 'sums'),
    ('04.4', (.1, .9), '1/8'),
    ('05.1', [(5, 100), (46, 94), (1, 100)], 'top-k counts'), ('05.1', [(5, 5), (1, 100), (1, 100)], 'differ most'),
    ('05.1', [(5, 5), (45, 94), (1, 100)], 'and the favourite'), ('05.1', [(5, 5), (46, 95), (1, 100)], 'one too many'),
    ('05.1', [(5, 5), (46, 94), (10, 100)], 'likeliest'),
    ('05.1', [(5, 5), (10, 94), (1, 100)], '`top_p_only\\(sure_of_it, '),
    ('05.2', (2, 3), 'other way'), ('05.2', (2, 2), 'top-k'), ('05.2', (4, 2), 'power'),
    ('05.3', 1007, 'half of it'),
    ('05.3', 1008, 'half of it.*never read'),
    ('05.3', 1907, 'written and not read'), ('05.3', 1935, 'one of the 32'), ('05.3', 1937, 'once less often'),
    ('05.3', 1898, 'prompt of 8'),
    ('05.3', 1000, 'the prompt'),
    ('05.3', 48_000, 'passes once'),
    ('05.3', 2000, 'count'),
    ('05.4', [97], 'are the text'), ('05.4', [77, 269, 503], 'stand in it'), ('05.4', [477, 269, 503], 'stand in it'),
    ('05.4', Tokenizer([bytes([i]) for i in range(256)]).encode('Sancho').tolist(), 'are the text'),
]


def test_every_exercise_has_an_answer_and_a_mistake():
    assert RIGHT.keys() == _EXERCISES.keys() == {o for o, _, _ in WRONG}


@pytest.mark.parametrize('number', RIGHT)
def test_right_answers_are_right(number): assert judge(number, RIGHT[number]()) is None


@pytest.mark.parametrize('number, answer, said', WRONG, ids=[f'{n}-{i}' for i, (n, _, _) in enumerate(WRONG)])
def test_wrong_answers_are_known(number, answer, said):
    assert re.search(said, judge(number, answer) or ''), judge(number, answer)


@pytest.mark.parametrize('number', RIGHT)
@pytest.mark.parametrize('answer', ['?', 7.5j, object(), [], {}, lambda: 0], ids=lambda o: type(o).__name__)
def test_answers_of_a_wrong_kind_are_no_error(number, answer): assert isinstance(judge(number, answer), str)


@pytest.mark.parametrize('ids', [[77, 97, 110, 503], [477, 97, 110, 503]])
def test_other_ways_to_write_mancha_are_right_too(ids): assert judge('05.4', ids) is None


def test_first_against_last_is_what_it_is_taken_for():
    first, last = gradients_of_24(post=False)
    assert re.search('against the last', judge('03.4', (first/last, 1)))


def test_embeddings_scaled_in_one_model_only_are_noticed():
    small = first_gradient(False) / first_gradient(True)
    assert re.search('64 times as large, too', judge('03.4', (small, first_gradient(False) / first_gradient(True, 64))))


def test_check_says_it(capsys):
    check('04.1'); check('04.1', 4.7); check('04.1', 6.79)
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ['04.1: not answered yet', '04.1: right'] and 'ln 2 nats' in said[2]


# --- the solutions that stand in the notebooks

def binds(code):
    "The names that a piece of Python gives a value"
    return {o.get_name() for o in symtable(code, 'code', 'exec').get_symbols() if o.is_assigned() or o.is_imported()}


def run(code, names, cells):
    "Run code in which names may be missing: the last of `cells` that binds one runs first; what the code comes to"
    *body, last = ast.parse(code).body
    while True:
        try:
            exec(compile(ast.Module(body, []), '<body>', 'exec'), names)
            if isinstance(last, ast.Expr): return eval(compile(ast.Expression(last.value), '<last>', 'eval'), names)
            exec(compile(ast.Module([last], []), '<last>', 'exec'), names)
            return names[last.name if isinstance(last, ast.FunctionDef) else last.targets[-1].id]
        except NameError as e:
            cell = next((o for o in reversed(cells) if e.name in binds(o)), None)
            if cell is None: raise
            with contextlib.redirect_stdout(None): run(cell + '\nNone', names, cells[:cells.index(cell)])
            names[e.name]       # now it is there


def printed(number):
    "The code of the solution to an exercise, and the cells of its chapter that come before it"
    path, = ROOT.glob(f'nbs/{number[:2]}_*.ipynb')
    cells = json.loads(path.read_text('utf-8'))['cells']
    texts = [''.join(c['source']) for c in cells]
    i = next(i for i, o in enumerate(texts) if f'**{number} ' in o)
    solution = next(o for o in texts[i:] if 'Solution' in o).partition('Solution')[2]
    before = [o for o, c in zip(texts[:i+2], cells) if c['cell_type'] == 'code' and '%config' not in o]
    return ''.join(re.findall(r'```python\n(.*?)```', solution, re.DOTALL)), before, path.stem[3:]


@pytest.mark.parametrize('number', sorted(_EXERCISES))
def test_printed_solutions_are_right(number, monkeypatch):
    monkeypatch.chdir(ROOT/'nbs')
    code, cells, chapter = printed(number)
    assert code, 'the solution has no code'
    names = dict(vars(import_module(f'mini_llm.{chapter}')))
    assert judge(number, run(code, names, cells)) is None


# --- exercises that end in a change of the library

LIBRARY = {    # exercise: its notebook, the test that waits for it, and a usual mistake with what that test says to it
    '00.5': ('00_regex_split', 'spanish_pattern', (r'\p{N}¿¡]?+', r'\p{N}]?+'), 'may be neither'),
    '05.5': ('05_generate', 'top_n_sigma', ('logits[np.isfinite(logits)].std()', '1'), 'the first two'),
}


def printed_solution(cells, number):
    "What the notebook prints as the solution: pieces of code, and changes as they stand in a diff"
    texts = [''.join(c['source']) for c in cells]
    i = next(i for i, o in enumerate(texts) if o.startswith(f'**{number} '))
    return re.findall(r'```(python|diff)\n(.*?)```', texts[i+1], re.DOTALL)


def apply(cells, kind, change):
    "Make one change in the cells of a notebook"
    if kind == 'python':
        return cells.insert(-1, dict(cell_type='code', id='added', metadata={}, outputs=[], source=change))
    lines = change.splitlines(keepends=True)
    old, new = (''.join(o[1:] for o in lines if o[0] in signs).rstrip('\n') for signs in (' -', ' +'))
    cell, = (c for c in cells if c['cell_type'] == 'code' and old in ''.join(c['source']))
    cell['source'] = ''.join(cell['source']).replace(old, new)


def exported(folder, name, number, mistake=None):
    "A copy of the package, made by nbdev_export from a notebook in which the exercise was done"
    shutil.copytree(ROOT/'mini_llm', folder/'mini_llm', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(ROOT/'settings.ini', folder)
    nb = json.loads((ROOT/'nbs'/f'{name}.ipynb').read_text('utf-8'))
    for kind, change in printed_solution(nb['cells'], number):
        apply(nb['cells'], kind, change.replace(*mistake) if mistake else change)
    (folder/'nbs').mkdir()
    (folder/'nbs'/f'{name}.ipynb').write_text(json.dumps(nb), 'utf-8')
    code, _, err = end(begin('from nbdev.doclinks import nbdev_export; nbdev_export()', cwd=folder))
    assert code == 0, err


def named_test(name, folder):
    "The named test, asked of the package in a folder"
    test = ROOT/'tests'/'exercises'/f'{name}.py'
    head = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', test]
    return end(begin(head, cwd=folder, PYTHONPATH=str(folder), COLUMNS='200'))[:2]


@pytest.mark.parametrize('number', LIBRARY)
def test_an_exercise_turns_its_test_green(number, tmp_path):
    name, test, mistake, said = LIBRARY[number]
    code, out = named_test(test, ROOT)
    assert code == 1 and 'was nbdev_export run?' in out and 'passed' not in out, out
    exported(tmp_path/'right', name, number)
    code, out = named_test(test, tmp_path/'right')
    assert code == 0, out
    exported(tmp_path/'wrong', name, number, mistake)
    code, out = named_test(test, tmp_path/'wrong')
    assert code == 1 and said in out, out
