"The decoder against torch: scores and texts, in windows and batches, with odd shapes, few cores and many callers"
import json
import subprocess
import sys
import threading

import numpy as np
import pytest
from commands import python
import torch

from mini_llm.engine.decoding import Decoder, Unsupported, from_bfloat16, from_int8, to_bfloat16, to_int8
from mini_llm.generate import generate_batch, generate_ids
from mini_llm.gpt import GPT, GPTConfig

SHAPES = [dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=64), dict(n_layer=1, n_head=3, n_embd=96, head_dim=16, n_ff=160),
          dict(n_layer=1, n_head=1, n_embd=32, context_length=17), dict(n_layer=3, n_head=2, n_kv_head=1, n_embd=128, rope_theta=1e6)]


def wild(folder, vocab_size=301, context_length=32, **shape):
    "A saved model with random weights, norms too, large enough that its opinions differ from token to token"
    torch.manual_seed(0)
    model = GPT(GPTConfig(**dict(vocab_size=vocab_size, context_length=context_length) | shape)).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2: p.normal_(std=p.shape[1]**-.5)
            else: p.uniform_(.5, 1.5)
    model.save(folder)
    return model


def greedy(model, ids, n):
    return list(generate_ids(model, ids, n, temperature=0))


def greedy_uncached(model, ids, n):
    "The model's own forward pass for every token, the older half forgotten whenever the window is full"
    window, res = list(ids), []
    for _ in range(n):
        if len(window) > model.cfg.context_length: window = window[-max(1, model.cfg.context_length//2):]
        with torch.no_grad(): res.append(model(torch.tensor([window]))[0, -1].argmax().item())
        window.append(res[-1])
    return res


@pytest.mark.parametrize('shape', SHAPES)
def test_scores_equal_torch_at_every_position(tmp_path, shape):
    model = wild(tmp_path, **shape)
    ids = np.random.default_rng(0).integers(301, size=model.cfg.context_length)
    with torch.no_grad(): want = model(torch.tensor(ids)[None])[0].numpy()
    for threads in 1, 2:
        decoder = Decoder(tmp_path, threads=threads)
        got = decoder.feed([ids], decoder.new_cache(), every=True)
        np.testing.assert_allclose(got, want, atol=1e-4)
        cache = decoder.new_cache()
        assert np.array_equal([decoder([i], cache) for i in ids], got)


@pytest.mark.parametrize('shape', SHAPES)
def test_greedy_text_equals_torch_over_several_windows(tmp_path, shape):
    model = wild(tmp_path, **shape)
    decoder = Decoder(tmp_path)
    limit = model.cfg.context_length
    for n in [*range(1, limit+1, 5), limit-1, limit, limit+1, 3*limit]:
        prompt = [(7*i + n) % 301 for i in range(n)]
        assert greedy(decoder, prompt, limit) == greedy_uncached(model, prompt[-limit:], limit), n
    assert greedy(decoder, [5], 4*limit) == greedy_uncached(model, [5], 4*limit)


@pytest.mark.parametrize('precision, atol', [('bfloat16', .1), ('int8', .1)])
def test_short_weights_equal_torch_with_the_same_rounded_weights(tmp_path, precision, atol):
    model = wild(tmp_path/'m', **SHAPES[0])
    decoder = Decoder(tmp_path/'m', precision)
    ids = list(range(30))
    def rounded(x):
        return from_int8(*to_int8(x)) if precision == 'int8' else from_bfloat16(to_bfloat16(x))
    table = torch.tensor(rounded(model.embed_tokens.weight.detach().numpy()))
    with torch.no_grad():
        plain = model(torch.tensor([ids]))[0].numpy()
        for name, p in model.named_parameters():
            if p.ndim == 2 and 'embed' not in name: p.copy_(torch.tensor(rounded(p.numpy())))
        want = (model.hidden_states(torch.tensor([ids]))[0] @ table.T).numpy()
    got = decoder.feed([ids], decoder.new_cache(), every=True)
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert 1e-4 < np.abs(got - plain).max() < atol*np.abs(plain).max()


def test_rounding_of_extremes():
    x = np.array([0, -0., 1e-40, 3e38, -3e38, 1, 1+2**-8, 1+3*2**-8], np.float32)
    assert np.array_equal(from_bfloat16(to_bfloat16(x)), torch.tensor(x).bfloat16().float().numpy())
    rows = np.random.default_rng(0).normal(size=(50, 96)).astype(np.float32) * np.logspace(-20, 20, 50)[:, None].astype(np.float32)
    q, scales = to_int8(rows)
    assert np.abs(q).max() == 127 and (np.abs(from_int8(q, scales) - rows) <= np.repeat(scales, 32, -1)*.5001).all()


def test_texts_are_the_same_alone_and_in_a_batch(tmp_path):
    wild(tmp_path, **SHAPES[0])
    for precision in 'float32', 'bfloat16', 'int8':
        decoder = Decoder(tmp_path, precision)
        prompts = [[i+1]*(1 + 5*i) for i in range(9)]
        alone = [list(generate_ids(decoder, p, 70, seed=i, end=[9])) for i, p in enumerate(prompts)]
        assert generate_batch(decoder, prompts, 70, seeds=range(9), end=[9]) == alone
        assert len({len(o) for o in alone}) > 1     # some have met the end


def test_a_batch_of_any_size(tmp_path):
    wild(tmp_path, **SHAPES[0])
    decoder = Decoder(tmp_path)
    assert generate_batch(decoder, [], 5) == []
    one = list(generate_ids(decoder, [1, 2], 5, seed=0))
    assert generate_batch(decoder, [[1, 2]]*33, 5, seeds=[0]*33) == [one]*33
    with pytest.raises(ValueError, match='no tokens'): generate_batch(decoder, [[1], []], 5)
    with pytest.raises(ValueError, match='vocab_size=301'): generate_batch(decoder, [[1], [400]], 5)
    with pytest.raises(ValueError, match='max_new_tokens'): generate_batch(decoder, [[1]], -5)


def test_many_callers_at_once(tmp_path):
    wild(tmp_path, **SHAPES[0])
    decoder, other = Decoder(tmp_path), Decoder(tmp_path, 'int8')
    want = [[list(generate_ids(d, [s], 40, seed=s)) for s in range(3)] for d in (decoder, other)]
    got = {}
    def run(k, d, s): got[k, s] = list(generate_ids(d, [s], 40, seed=s))
    threads = [threading.Thread(target=run, args=(k, d, s)) for k, d in enumerate((decoder, other)) for s in range(3)]
    for t in threads: t.start()
    for t in threads: t.join(60)
    assert [[got[k, s] for s in range(3)] for k in range(2)] == want


def test_a_busy_machine_changes_the_pace_and_not_the_text(tmp_path):
    wild(tmp_path, **SHAPES[0])
    decoder = Decoder(tmp_path)
    want = greedy(decoder, [1, 2, 3], 300)
    others = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(2)]
    try: assert greedy(decoder, [1, 2, 3], 300) == want
    finally:
        for p in others: p.kill(); p.wait()
    decoder.team.report(late=True)
    assert greedy(decoder, [1, 2, 3], 300) == want


@pytest.mark.parametrize('env', [dict(NUMBA_NUM_THREADS='1'), dict(OMP_THREAD_LIMIT='1'), dict(NUMBA_THREADING_LAYER='workqueue')])
def test_it_neither_hangs_nor_differs_however_threads_are_made(tmp_path, env):
    "A library that runs one thread where two were asked for must not keep the first waiting"
    wild(tmp_path, **SHAPES[0])
    want = greedy(Decoder(tmp_path), [1, 2, 3], 20)
    code = f'''
import sys
from mini_llm.engine.decoding import Decoder
from mini_llm.generate import generate_ids
print(list(generate_ids(Decoder({str(tmp_path)!r}), [1, 2, 3], 20, temperature=0)))
assert 'torch' not in sys.modules'''
    assert python(code, **env) == str(want)


def test_what_torch_alone_can_run_is_unsupported(tmp_path):
    wild(tmp_path, n_layer=1, n_head=2, n_embd=24)
    with pytest.raises(Unsupported, match='n_embd=24'): Decoder(tmp_path)
    wild(tmp_path/'b', n_layer=1, n_head=1, n_embd=48)
    assert Decoder(tmp_path/'b')
    with pytest.raises(Unsupported, match='multiple of 32'): Decoder(tmp_path/'b', 'int8')


def test_what_transformers_saves_can_be_decoded(tmp_path):
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(1)
    config = transformers.Qwen3Config(vocab_size=99, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, intermediate_size=128, max_position_embeddings=32, rope_theta=1e6, tie_word_embeddings=True)
    theirs = transformers.Qwen3ForCausalLM(config).eval()
    for dtype in torch.float32, torch.bfloat16:
        theirs.to(dtype).save_pretrained(tmp_path)
        decoder = Decoder(tmp_path)
        ids = list(range(20))
        read = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        with torch.no_grad(): want = read(torch.tensor([ids])).logits[0].numpy()
        np.testing.assert_allclose(decoder.feed([ids], decoder.new_cache(), every=True), want, atol=1e-4)


def test_damaged_folders_are_named(tmp_path):
    wild(tmp_path, **SHAPES[0])
    config = json.loads((tmp_path/'config.json').read_text())
    for broken in '[]', '{', json.dumps(config | dict(hidden_size=None)), json.dumps({k: v for k, v in config.items() if k != 'head_dim'}):
        (tmp_path/'config.json').write_text(broken)
        with pytest.raises(ValueError, match='config.json'): Decoder(tmp_path)
    (tmp_path/'config.json').write_text(json.dumps(config | dict(num_hidden_layers=3)))
    with pytest.raises(ValueError, match='model.safetensors does not fit'): Decoder(tmp_path)
    (tmp_path/'config.json').write_text(json.dumps(config | dict(intermediate_size=96)))
    with pytest.raises(ValueError, match='model.safetensors does not fit'): Decoder(tmp_path)
