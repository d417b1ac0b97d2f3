"Sampling against transformers, the distribution of draws, and the command"
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from mini_llm.bpe import END_OF_TEXT, Tokenizer
from mini_llm.engine.decoding import Decoder
from mini_llm.generate import (Sampling, draw, generate, generate_batch, generate_ids, generate_texts, main,
                               next_logits, ready, stream, until)
from mini_llm.gpt import GPT, GPTConfig

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope='module')
def tok(root):
    text = (root/'datasets'/'cervantes.txt').read_text(encoding='utf-8')[:30_000]
    return Tokenizer.train(text, 300, special_tokens=[END_OF_TEXT])


def wild_model(n_vocab, context_length=32):
    "A model with random weights large enough that its opinions differ from token to token"
    torch.manual_seed(0)
    model = GPT(
        GPTConfig(vocab_size=n_vocab, n_layer=2, n_head=4, n_kv_head=2, n_embd=64, context_length=context_length)
    ).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2: p.normal_(std=.2)
    return model


SETTINGS = [
    dict(temperature=0.7),
    dict(temperature=1, top_k=7),
    dict(temperature=1.3, top_p=0.803),
    dict(temperature=1, min_p=0.1),
    dict(temperature=0.9, repetition_penalty=1.3),
    dict(temperature=1, repetition_penalty=0.7),
    dict(temperature=2, top_k=1),
    dict(temperature=0.8, top_k=40, top_p=0.907, min_p=0.02, repetition_penalty=1.2),
    dict(temperature=5, top_p=0.0103),
    dict(temperature=0.1, min_p=1),
    dict(temperature=1e-3, top_k=3, top_p=0.503),
    dict(temperature=50, top_k=1000, top_p=0.9997, min_p=1e-6),
]


def scores(rng, kind, n=97):
    "Random logits of many kinds; no group of equal ones among so many has exactly the share that a setting asks for"
    x = rng.normal(size=n) * rng.choice([.1, 1, 4, 30])
    if kind == 'ties': x = np.round(x)
    if kind == 'few': x[rng.permutation(n)[3:]] = -1e4
    if kind == 'extreme': x *= 1e3
    if kind == 'impossible': x[rng.permutation(n)[:n//2]] = -np.inf
    return x.astype(np.float32)


def transformers_probabilities(s, logits, seen):
    "The same settings through the processors of transformers, in the order of its `generate`"
    t = pytest.importorskip('transformers.generation.logits_process')
    processors = [
        t.RepetitionPenaltyLogitsProcessor(float(s.repetition_penalty)),
        t.TemperatureLogitsWarper(float(s.temperature)),
    ]
    if s.top_k: processors.append(t.TopKLogitsWarper(s.top_k))
    if s.top_p < 1: processors.append(t.TopPLogitsWarper(s.top_p))
    if s.min_p: processors.append(t.MinPLogitsWarper(float(s.min_p)))
    x = torch.tensor(logits)[None].double()
    for p in processors: x = p(torch.tensor(seen)[None], x)
    return x[0].softmax(-1).numpy()


@pytest.mark.parametrize('settings', SETTINGS)
@pytest.mark.parametrize('kind', ['normal', 'ties', 'few', 'extreme', 'impossible'])
def test_probabilities_equal_those_of_transformers(settings, kind):
    s = Sampling(**{'top_p': 1., **settings})
    rng = np.random.default_rng(0)
    for _ in range(25):
        logits, seen = scores(rng, kind), rng.integers(97, size=20)
        got, want = s.probabilities(logits, seen), transformers_probabilities(s, logits, seen)
        # among ties at the border of top-p, which ids stay is a matter of sorting; how likely they are is not
        if kind == 'ties' and s.top_p < 1: got, want = np.sort(got), np.sort(want)
        np.testing.assert_allclose(got, want, atol=1e-9)


def critical(df, z=3.09):
    "What chi-squared with `df` degrees of freedom exceeds once in a thousand (Wilson and Hilferty, 1931)"
    return df * (1 - 2/(9*df) + z*(2/(9*df))**.5)**3


@pytest.mark.parametrize('settings', SETTINGS[:4] + SETTINGS[7:8])
def test_draws_follow_the_distribution(settings):
    rng, n = np.random.default_rng(1), 100_000
    logits = rng.normal(size=60) * 2
    probs = Sampling(**{'top_p': 1., **settings}).probabilities(logits, np.array([3, 5]))
    counts = np.bincount([draw(probs, rng) for _ in range(n)], minlength=60)
    assert counts[probs == 0].sum() == 0
    often = n*probs >= 5        # the rest, too rare for the approximation, is one class
    want, got = [np.append(o[often], o[~often].sum()) for o in (n*probs, counts)]
    want, got = want[want > 0], got[want > 0]
    assert ((got - want)**2 / want).sum() < critical(len(want) - 1)


def uncached(model, ids, n):
    "Greedy ids by the model's own forward pass; a full window forgets its older half"
    window, res, limit = list(ids)[-model.cfg.context_length:], [], model.cfg.context_length
    for _ in range(n):
        if len(window) > limit: window = window[-max(1, limit//2):]
        with torch.no_grad(): res.append(model(torch.tensor([window]))[0, -1].argmax().item())
        window.append(res[-1])
    return res


@pytest.mark.parametrize('context_length', [1, 2, 7, 16, 33])
def test_greedy_text_is_the_same_with_and_without_a_cache_from_every_length(tmp_path, context_length):
    model = wild_model(50, context_length)
    model.save(tmp_path)
    decoder = Decoder(tmp_path)
    for n in range(1, context_length + 3):
        prompt = [(7*i + n) % 50 for i in range(n)]
        new = 3*context_length if n in (1, context_length) else 5     # over several windows for two of them
        want = uncached(model, prompt, new)
        assert list(generate_ids(model, prompt, new, sampling=GREEDY)) == want
        assert list(generate_ids(decoder, prompt, new, sampling=GREEDY)) == want


def test_texts_are_the_same_alone_and_in_a_batch(tok, tmp_path):
    model = wild_model(tok.n_vocab)
    model.save(tmp_path)
    prompts, seeds = ['niño', '', 'x' * 90, '日本', 'Sancho', 'la '] * 2, list(range(12))
    end = set(tok.special_tokens.values())
    for decoder in Decoder(tmp_path), model:
        for settings in Sampling(), Sampling(temperature=1.5, top_k=9, min_p=.05, repetition_penalty=1.2):
            texts = generate_texts(
                decoder, prompts, 80, seeds=seeds, stop=['a', 'é, '], tokenizer=tok, sampling=settings
            )
            assert {o.ended for o in texts} > {'stop'}  # they end at different times, and not all for the same reason
            for o in texts:
                ids = list(
                    generate_ids(decoder, tok.encode(o.prompt or '\n'), 80, seed=o.seed, end=end, sampling=settings)
                )
                assert o.text == ''.join(until([tok.decode(ids)], ['a', 'é, ']))
                assert o.tokens == len(ids) if o.ended != 'stop' else tok.decode(ids[:o.tokens]).startswith(o.text)
                assert o.ended != 'end' or o.tokens < 80


def test_a_special_token_ends_a_text(tok, tmp_path):
    model = wild_model(tok.n_vocab)
    end = tok.special_tokens[END_OF_TEXT]
    with torch.no_grad():
        model.embed_tokens.weight[end] *= 3  # now it is often the likeliest, or the least likely
    model.save(tmp_path)
    decoder = Decoder(tmp_path)
    texts = generate_texts(decoder, ['a'] * 20, 60, seeds=range(20), tokenizer=tok)
    ended = [o for o in texts if o.ended == 'end']
    assert ended and all('<|endoftext|>' not in o.text for o in texts)
    for o in ended:
        ids = list(generate_ids(decoder, tok.encode('a'), 60, seed=o.seed))
        assert ids[o.tokens] == end and end not in ids[:o.tokens] and tok.decode(ids[:o.tokens]) == o.text


def test_pieces_are_whole_characters_however_tokens_cut_them(tok):
    "Byte by byte, with emoji of four bytes, joined ones, and bytes that are no character"
    rng = np.random.default_rng(0)
    for text in 'niño — ¿qué?', '😀👩‍👩‍👧🇪🇸 ñ', '日本語', 'e\u0301', '\x00\u2028\ufeff':
        pieces = list(tok.decode_stream(text.encode()))
        assert pieces == list(text) and ''.join(pieces) == text
    for _ in range(300):
        ids = rng.choice([*'😀ñ—a'.encode(), *range(256)], size=12).tolist()
        assert ''.join(tok.decode_stream(ids)) == tok.decode(ids)


def test_stop_strings_are_never_shown_half():
    rng = np.random.default_rng(0)
    for _ in range(500):
        text = ''.join(rng.choice(list('abñ'), size=20))
        stops = [''.join(rng.choice(list('abñ'), size=rng.integers(1, 5))) for _ in range(rng.integers(1, 4))]
        cuts = [0, *sorted(rng.integers(0, 21, size=6)), 20]
        want = text[:min([text.find(s) for s in stops if s in text], default=20)]
        shown = ''
        for piece in until([text[i:j] for i, j in zip(cuts, cuts[1:])], stops):
            shown += piece
            assert want.startswith(shown)
        assert shown == want


@pytest.mark.parametrize('context_length', [8, 31, 32])
def test_cached_equals_uncached_over_several_windows(context_length):
    model = wild_model(50, context_length)
    asked, window = next_logits(model, [1, 2, 3]), [1, 2, 3]
    logits = next(asked)
    for _ in range(3*context_length):
        if len(window) > context_length: window = window[-(context_length//2):]
        with torch.no_grad(): plain = model(torch.tensor([window]))[0, -1].numpy()
        np.testing.assert_allclose(logits, plain, atol=1e-4)
        window.append(int(plain.argmax()))
        logits = asked.send(window[-1])


def test_streams_are_independent_of_each_other(tok):
    model = wild_model(tok.n_vocab)
    alone = [list(generate_ids(model, [5], 50, seed=s)) for s in range(4)]
    together = list(zip(*(generate_ids(model, [5], 50, seed=s) for s in range(4))))
    assert [list(o) for o in zip(*together)] == alone and alone[0] != alone[1]


def test_pieces_join_to_the_whole_and_hold_no_broken_character(tok):
    model = wild_model(tok.n_vocab)
    for seed in range(20):
        ids = list(generate_ids(model, tok.encode('niño'), 60, seed=seed, end=tok.special_tokens.values()))
        pieces = list(stream(model, 'niño', 60, seed=seed, tokenizer=tok))
        assert ''.join(pieces) == tok.decode(ids)
        whole = ''.join(pieces)
        for stop in filter(None, (whole[3:5], whole[10:11])):
            assert ''.join(stream(model, 'niño', 60, seed=seed, stop=[stop], tokenizer=tok)) == whole.split(stop)[0]


@pytest.mark.parametrize(
    'wrong, said',
    [
        (dict(max_new_tokens=-1), 'max_new_tokens=-1'),
        (dict(max_new_tokens=2.5), 'max_new_tokens=2.5'),
        (dict(seed=-1), 'seed=-1'),
        (dict(seed='a'), "seed='a'"),
        (dict(top_k=2.5), 'top_k=2.5'),
        (dict(top_k=True), 'top_k=True'),
        (dict(temperature=float('nan')), 'temperature=nan'),
        (dict(top_p=1.01), 'top_p=1.01'),
        (dict(sampling=Sampling(), top_k=3), 'not both'),
        (dict(sampling={'top_k': 3}), 'must be a `Sampling`'),
    ],
)
def test_a_wrong_argument_is_refused_when_it_is_given_not_at_the_first_token(tok, wrong, said):
    model = wild_model(tok.n_vocab)
    seed = {'seeds' if k == 'seed' else k: [v] if k == 'seed' else v for k, v in wrong.items()}
    for call in (lambda: generate_ids(model, [1], **wrong), lambda: stream(model, 'a', tokenizer=tok, **wrong),
                 lambda: generate(model, 'a', tokenizer=tok, **wrong), lambda: generate_batch(model, [[1]], **seed),
                 lambda: generate_texts(model, ['a'], tokenizer=tok, **seed)):
        with pytest.raises(ValueError, match=re.escape(said)): call()


def test_what_does_not_go_together_is_refused(tok, run):
    model = wild_model(tok.n_vocab)
    for call in stream, generate, lambda m, p, **kw: generate_texts(m, [p], **kw):
        with pytest.raises(ValueError, match='tokenizer of its own'): call(run, 'a', tokenizer=tok)
        for more in dict(best=True), dict(precision='int8'), dict(precision='float32'):
            with pytest.raises(ValueError, match='in memory'): call(model, 'a', tokenizer=tok, **more)
        with pytest.raises(ValueError, match='int3'): call(run, 'a', precision='int3')
        with pytest.raises(ValueError, match='best has no weights yet'): call(run, 'a', best=True)
        with pytest.raises(ValueError, match='nowhere'): call('nowhere', 'a')
        with pytest.raises(ValueError, match='give tokenizer='): call(model, 'a')
        for stop in '', ['a', ''], [3]:
            with pytest.raises(ValueError, match='a stop string is'): call(run, 'a', stop=stop)
    for call in generate_ids, next_logits:
        for ids, said in (
            ([], 'no tokens'),
            ([[1]], 'one dimension'),
            ([0.5], 'integers'),
            ([tok.n_vocab], 'vocab_size='),
            ([-1], 'vocab_size='),
        ):
            with pytest.raises(ValueError, match=said): call(model, ids)
    with pytest.raises(ValueError, match='a stop string is empty'): until(['a'], [''])


def test_numbers_of_numpy_are_numbers(tok):
    model = wild_model(tok.n_vocab)
    settings = Sampling(temperature=np.float32(.5), top_k=np.int64(7), top_p=np.float64(.9))
    assert (type(settings.temperature), type(settings.top_k), settings.top_p) == (float, int, .9)
    a = list(generate_ids(model, np.array([1, 2], np.uint16), np.int32(20), seed=np.int64(3), sampling=settings))
    assert a == list(generate_ids(model, [1, 2], 20, seed=3, temperature=.5, top_k=7, top_p=.9)) and len(a) == 20


@pytest.mark.parametrize('temperature', [0, 1])
def test_weights_that_are_no_numbers_are_told(temperature):
    model = wild_model(50)
    with torch.no_grad(): model.norm.weight[3] = torch.nan
    for call in (
        lambda: generate(model, [1], 3, temperature=temperature),
        lambda: generate_batch(model, [[1]], 3, temperature=temperature),
    ):
        with pytest.raises(ValueError, match='training diverged|holds nan'): call()


def test_a_model_in_training_stays_in_training_also_after_an_error(monkeypatch):
    model = wild_model(50).train()
    model.layers[0].eval()                                     # a part that somebody has frozen
    list(generate_ids(model, [1], 3))
    def fails(*args, **kwargs): raise RuntimeError('no room')
    monkeypatch.setattr(model, 'forward', fails)
    with pytest.raises(RuntimeError, match='no room'): list(generate_ids(model, [1], 3))
    assert model.training and not model.layers[0].training and model.layers[1].training


def greedy(model, n=70): return list(generate_ids(model, [1, 2, 3], n, temperature=0))


def test_a_model_in_memory_writes_by_the_decoder_and_the_same_text(tok):
    model = wild_model(tok.n_vocab)
    assert isinstance(ready(model)[0], Decoder)
    before = greedy(model)                                         # by torch
    assert generate(model, [1, 2, 3], 70, temperature=0).tolist() == before
    text = generate(model, 'niño', 40, seed=1, tokenizer=tok)
    alone = list(generate_ids(model, tok.encode('niño'), 40, seed=1, end=tok.special_tokens.values()))
    assert text == tok.decode(alone) == ''.join(stream(model, 'niño', 40, seed=1, tokenizer=tok))
    with torch.no_grad(): model.layers[1].mlp.down_proj.weight.mul_(-2)
    after = greedy(model)                                          # a model that was trained on is another
    assert after != before and generate(model, [1, 2, 3], 70, temperature=0).tolist() == after


class Louder(GPT):
    "A changed model"
    def forward(self, *args, **kwargs): return -super().forward(*args, **kwargs)


CHANGES = dict(double=lambda m: m.double(), bfloat16=lambda m: m.bfloat16(), changed=Louder)


@pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)
def test_a_model_that_the_decoder_does_not_know_writes_by_itself(change):
    model = wild_model(50)
    odd = change(model.cfg if change is Louder else model)
    if change is Louder: odd.load_state_dict(model.state_dict())
    assert ready(odd)[0] is odd and generate(odd, [1, 2, 3], 20, temperature=0).tolist() == greedy(odd, 20)


def test_the_best_weights_of_a_run_can_be_asked_for(tok, run, tmp_path):
    both = tmp_path/'both'
    shutil.copytree(run, both)
    other = wild_model(tok.n_vocab)
    with torch.no_grad(): other.embed_tokens.weight.mul_(-1)
    other.save(both/'best')
    last, best = (generate(both, 'niño', 20, seed=1, best=o) for o in (False, True))
    assert last == generate(run, 'niño', 20, seed=1) != best
    assert (
        best
        == ''.join(stream(both, 'niño', 20, seed=1, best=True))
        == generate_texts(both, ['niño'], 20, seeds=[1], best=True)[0].text
    )


def test_prompts_of_any_kind(tok):
    model = wild_model(tok.n_vocab)
    for prompt in '', ' ', 'ñ' * 1000, '日本語', 'a\x00b', '<|endoftext|>', 'palabra ' * 20_000:
        assert isinstance(generate(model, prompt, 3, seed=0, tokenizer=tok), str)
    with pytest.raises(ValueError, match='lone surrogate'): generate(model, '\ud800', 3, tokenizer=tok)


def command(root, folder, *args, **kw):
    return subprocess.run(
        [sys.executable, root / 'generate.py', *map(str, args)],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding='utf-8',
        env=os.environ | {'PYTHONUTF8': '1'},
        timeout=120,
        **kw,
    )


@pytest.fixture(scope='module')
def run(tok, tmp_path_factory):
    "A run as training leaves it, with an untrained model"
    folder = tmp_path_factory.mktemp('gen')
    path = folder/'runs'/'x300-1'
    wild_model(tok.n_vocab).save(path)
    tok.save(path/'tokenizer.model')
    (path/'train.json').write_text('{"started": "2026-01-01"}', encoding='utf-8')
    return path


def test_the_command_streams_the_same_text_for_the_same_seed(root, run):
    a = command(root, run.parents[1], 'En un lugar', '--seed', 3, '--max_new_tokens', 30)
    b = command(root, run.parents[1], '-', '--seed', 3, '--max_new_tokens', 30, '--run', run, input='En un lugar\n')
    assert a.returncode == b.returncode == 0, a.stderr
    assert a.stdout == b.stdout and a.stdout.startswith('En un lugar')
    assert a.stdout == 'En un lugar' + generate(run, 'En un lugar', 30, seed=3) + '\n'
    assert a.stderr.strip() == f'{run.relative_to(run.parents[1])}, seed 3'


def test_several_texts_as_json_each_with_a_seed_of_its_own(root, run):
    args = ['--n', 3, '--seed', 5, '--json', '--stop', 'a', '--max_new_tokens', 25, '--top_k', 20]
    res = command(root, run.parents[1], 'niño', *args)
    texts = [json.loads(o) for o in res.stdout.strip('\n').split('\n')]
    assert [o['seed'] for o in texts] == [5, 6, 7]
    for o in texts:
        assert set(o) == {'run', 'prompt', 'text', 'seed', 'tokens', 'ended', 'settings'} and o['prompt'] == 'niño'
        assert o['text'] == generate(run, 'niño', 25, seed=o['seed'], stop='a', top_k=20)
        assert o['settings']['top_k'] == 20 and o['ended'] in ('stop', 'length', 'end')
    assert 'niño' in res.stdout
    plain = command(root, run.parents[1], 'niño', *[o for o in args if o != '--json'])
    lines = ''.join(f"niño{o['text']}\n{'-'*15}\n" for o in texts)
    assert plain.stdout == lines.replace('\r\n', '\n').replace('\r', '\n')  # as subprocess reads it
    again = command(
        root, run.parents[1], 'niño', '--json', '--max_new_tokens', 9
    )  # a seed that was drawn can be used again
    first = json.loads(again.stdout)
    assert first['text'] == generate(run, 'niño', 9, seed=first['seed'])


def test_prompts_from_files_and_standard_input(root, run, tmp_path):
    (tmp_path/'p.txt').write_bytes('\ufeffSancho\r\n\r\nniño\r\n'.encode())
    args = ['--seed', 1, '--max_new_tokens', 5, '--json', '--run', run]

    def prompts(*more, **kw):
        return [json.loads(o)['prompt'] for o in command(root, tmp_path, *args, *more, **kw).stdout.splitlines()]

    assert prompts('--file', 'p.txt') == ['Sancho\n\nniño']
    assert prompts('--file', 'p.txt', '--lines') == ['Sancho', 'niño']
    assert prompts('-', '--lines', '--n', 2, input='a\nb') == ['a', 'a', 'b', 'b']
    assert prompts('-', input='') == prompts() == ['']
    res = command(root, tmp_path, '--file', 'p.txt', '--max_new_tokens', 0, '--run', run)
    assert res.stdout == 'Sancho\n\nniño\n'


def test_prompts_beyond_the_window_are_told(root, run):
    res = command(
        root, run.parents[1], '-', '--max_new_tokens', 3, '--repetition_penalty', 1.1, input='palabra ' * 125_000
    )
    assert res.returncode == 0 and 'the model sees the last 32' in res.stderr


def test_bytes_that_are_no_utf8_are_named_or_read_with_a_word(root, run):
    args = [sys.executable, root/'generate.py', '--run', run, '--max_new_tokens', '3']
    def told(*more, **kw):
        env = os.environ | {'PYTHONUTF8': '1'}
        res = subprocess.run([*args, *more], capture_output=True, env=env, timeout=120, **kw)
        return res.returncode, res.stdout.decode(), res.stderr.decode()
    for more, what in (['ma\udcf1ana'], 'the prompt'), (['a', '--stop', 'ma\udcf1'], 'a stop string'):
        code, _, err = told(*more)
        assert code == 2 and f"{what} is not UTF-8: after 'ma' comes the byte 0xf1" in err
    code, out, err = told('-', input=b'ma\xf1ana')
    assert code == 0 and out.startswith('mañana') and 'standard input is read as Windows-1252' in err


@pytest.mark.skipif(sys.platform == 'win32', reason='pseudo-terminals are for Unix')
def test_a_conversation_in_a_terminal(root, run, tok, tmp_path):
    pty = pytest.importorskip('pty')
    endless = tmp_path/'endless'
    shutil.copytree(run, endless)
    Tokenizer(tok.vocab).save(endless/'tokenizer.model')     # no special token: only Ctrl-C ends a text
    wild_model(tok.vocab_size).save(endless)
    master, slave = pty.openpty()
    args = [sys.executable, root/'generate.py', '--run', endless, '--max_new_tokens', '1000000', '--seed', '3']
    env = os.environ | dict(XDG_STATE_HOME=str(tmp_path), TERM='dumb', PYTHONUTF8='1')
    p = subprocess.Popen(
        args, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True, preexec_fn=own_terminal
    )
    os.close(slave)
    def until_seen(what, after=b''):
        "Send keys, and read until something appears"
        os.write(master, after)
        out, end = b'', time.time() + 60
        while what not in out and time.time() < end:
            if select.select([master], [], [], .1)[0]: out += os.read(master, 65536)
        assert what in out, out[-300:]
        return out.decode('utf-8', 'replace')
    until_seen(b'> ')
    shown = until_seen(b'ni\xc3\xb1o' * 2, 'niñoniño\n'.encode()) + until_seen(b'a')
    until_seen(b'\n> ', b'\x03')           # Ctrl-C stops the text only
    until_seen(b'a', b'\n')                # an empty line goes on
    until_seen(b'\n> ', b'\x03')
    until_seen(b'xy', b'xy')
    time.sleep(.5)                          # a Ctrl-C that comes while readline handles a key waits for the next key
    until_seen(b'\n> ', b'\x03')           # Ctrl-C in a line forgets it
    assert 'Traceback' not in shown
    os.write(master, b'\x04')              # Ctrl-D leaves
    assert p.wait(60) == 0
    os.close(master)
    try: import readline                   # noqa: F401
    except ImportError: return
    assert 'niñoniño' in (tmp_path/'mini_llm'/'history').read_text(encoding='utf-8')


def own_terminal():
    "In a new process: make its standard input the terminal that Ctrl-C comes from"
    import fcntl
    import termios
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize(
    'args, message',
    [
        (['--run', 'nowhere'], 'is not a training run'),
        (['--best'], 'has no weights yet'),
        (['--top_p', '2'], 'top_p=2.0 must be a number of at least 0 and at most 1'),
        (['--max_new_tokens', '-1'], 'max_new_tokens=-1'),
        (['--stop', ''], 'is empty'),
        (['--n', '0'], 'n=0 must be at least 1'),
        (['--seed', '-1'], 'seed=-1 must be at least 0'),
        (['--temperature', 'nan'], 'temperature=nan'),
        (['--top_k', '-2'], 'top_k=-2'),
        (['--file', 'x'], 'not both'),
        (['--lines'], '--lines needs'),
    ],
)
def test_wrong_input_is_one_clear_line(root, run, args, message):
    res = command(root, run.parents[1], 'Sancho', *args)
    assert res.returncode == 2 and message in res.stderr and 'Traceback' not in res.stderr



def test_without_a_run_the_model_of_the_book_speaks(root, tmp_path, capsys, monkeypatch):
    res = command(root, tmp_path, 'Sancho', '--seed', '1', '--max_new_tokens', '5')
    assert res.returncode == 0 and res.stdout.startswith('Sancho')
    assert 'the model of the book' in res.stderr and 'models/quijote' in res.stderr and 'train.py' in res.stderr
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('mini_llm.workshop.commands.shipped_run', lambda: None)      # an installed package has none
    assert main(['Sancho']) == 2 and 'no run with weights' in capsys.readouterr().err


def test_terminals_without_accents_and_readers_that_leave(root, run):
    args = [sys.executable, root/'generate.py', 'niño', '--run', run, '--seed', '3', '--max_new_tokens', '30']
    plain = subprocess.run(args, capture_output=True, env=os.environ | {'PYTHONIOENCODING': 'ascii'}, timeout=120)
    assert plain.returncode == 0 and plain.stdout.startswith(b'ni?o')
    for more in [], ['--n', '3'], ['--json']:
        p = subprocess.Popen([*args, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        p.stdout.close()
        assert p.wait(120) == 0 and b'rror' not in p.stderr.read()


def test_a_damaged_run_is_named(root, run, tmp_path):
    for name in 'config.json', 'model.safetensors', 'tokenizer.model':
        broken = tmp_path/name.replace('.', '_')
        shutil.copytree(run, broken)
        (broken/name).write_bytes(b'{')
        res = command(root, tmp_path, 'Sancho', '--run', broken)
        assert res.returncode == 2 and name in res.stderr and 'Traceback' not in res.stderr, name
