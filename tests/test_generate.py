"Sampling against transformers, the distribution of draws, and the command"
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from mini_llm.bpe import END_OF_TEXT, Tokenizer
from mini_llm.generate import Sampling, draw, generate, generate_ids, next_logits, stream
from mini_llm.gpt import GPT, GPTConfig


@pytest.fixture(scope='module')
def tok(root):
    text = (root/'datasets'/'cervantes.txt').read_text(encoding='utf-8')[:30_000]
    return Tokenizer.train(text, 300, special_tokens=[END_OF_TEXT])


def wild_model(n_vocab, context_length=32):
    "A model with random weights large enough that its opinions differ from token to token"
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=n_vocab, n_layer=2, n_head=4, n_kv_head=2, n_embd=64, context_length=context_length)).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2: p.normal_(std=.2)
    return model


@pytest.mark.parametrize('settings', [
    dict(temperature=.7), dict(temperature=1, top_k=7), dict(temperature=1.3, top_p=.8), dict(temperature=1, min_p=.1),
    dict(temperature=.9, repetition_penalty=1.3), dict(temperature=.8, top_k=40, top_p=.9, min_p=.02, repetition_penalty=1.2)])
def test_probabilities_equal_those_of_transformers(settings):
    t = pytest.importorskip('transformers.generation.logits_process')
    s = Sampling(**{'top_p': 1., **settings})
    temperature = float(s.temperature)
    rng = np.random.default_rng(0)
    for _ in range(50):
        logits, seen = rng.normal(size=100).astype(np.float32) * 4, rng.integers(100, size=20)
        processors = [t.RepetitionPenaltyLogitsProcessor(s.repetition_penalty), t.TemperatureLogitsWarper(temperature)]
        if s.top_k: processors.append(t.TopKLogitsWarper(s.top_k))
        if s.top_p < 1: processors.append(t.TopPLogitsWarper(s.top_p))
        if s.min_p: processors.append(t.MinPLogitsWarper(s.min_p))
        x = torch.tensor(logits)[None].double()
        for p in processors: x = p(torch.tensor(seen)[None], x)
        np.testing.assert_allclose(s.probabilities(logits, seen), x[0].softmax(-1).numpy(), atol=1e-9)


def test_draws_follow_the_distribution():
    rng = np.random.default_rng(1)
    probs = Sampling(temperature=1, top_k=12).probabilities(rng.normal(size=30) * 2, np.array([], int))
    n = 100_000
    counts = np.bincount([draw(probs, rng) for _ in range(n)], minlength=30)
    possible = probs > 0
    assert counts[~possible].sum() == 0
    chi2 = ((counts - n*probs)[possible]**2 / (n*probs[possible])).sum()
    assert chi2 < 31.3      # 11 degrees of freedom: exceeded once in a thousand


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
        ids = list(generate_ids(model, tok.encode('niño'), 60, Sampling(), seed, end=tok.special_tokens.values()))
        pieces = list(stream(model, 'niño', 60, seed, tokenizer=tok))
        assert ''.join(pieces) == tok.decode(ids)
        whole = ''.join(pieces)
        for stop in filter(None, (whole[3:5], whole[10:11])):
            assert ''.join(stream(model, 'niño', 60, seed, stop=[stop], tokenizer=tok)) == whole.split(stop)[0]


def test_prompts_of_any_kind(tok):
    model = wild_model(tok.n_vocab)
    for prompt in '', ' ', 'ñ' * 1000, '日本語', 'a\x00b', '<|endoftext|>', 'palabra ' * 20_000:
        assert isinstance(generate(model, prompt, 3, seed=0, tokenizer=tok), str)
    with pytest.raises(ValueError, match='lone surrogate'): generate(model, '\ud800', 3, tokenizer=tok)


def command(root, folder, *args, **kw):
    return subprocess.run([sys.executable, root/'generate.py', *map(str, args)], cwd=folder, capture_output=True, text=True,
                          encoding='utf-8', env=os.environ | {'PYTHONUTF8': '1'}, timeout=120, **kw)


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


@pytest.mark.parametrize('args, message', [
    (['--run', 'nowhere'], 'is not a training run'), (['--best'], 'has no weights yet'), (['--top_p', '2'], 'top_p=2.0 must be from 0 to 1'),
    (['--max_new_tokens', '-1'], 'max_new_tokens=-1'), (['--stop', ''], 'is empty')])
def test_wrong_input_is_one_clear_line(root, run, args, message):
    res = command(root, run.parents[1], 'Sancho', *args)
    assert res.returncode == 2 and message in res.stderr and 'Traceback' not in res.stderr


def test_without_a_run_it_says_what_to_do(root, tmp_path):
    res = command(root, tmp_path, 'Sancho')
    assert res.returncode == 2 and 'python train.py' in res.stderr


def test_terminals_without_accents_and_readers_that_leave(root, run):
    args = [sys.executable, root/'generate.py', 'niño', '--run', run, '--seed', '3', '--max_new_tokens', '30']
    plain = subprocess.run(args, capture_output=True, env=os.environ | {'PYTHONIOENCODING': 'ascii'}, timeout=120)
    assert plain.returncode == 0 and plain.stdout.startswith(b'ni?o')
    p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    p.stdout.close()
    assert p.wait(120) == 0 and b'rror' not in p.stderr.read()


def test_a_damaged_run_is_named(root, run, tmp_path):
    for name in 'config.json', 'model.safetensors', 'tokenizer.model':
        broken = tmp_path/name.replace('.', '_')
        shutil.copytree(run, broken)
        (broken/name).write_bytes(b'{')
        res = command(root, tmp_path, 'Sancho', '--run', broken)
        assert res.returncode == 2 and name in res.stderr and 'Traceback' not in res.stderr, name
