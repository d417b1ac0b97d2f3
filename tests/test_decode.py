"The decoder against torch: scores and texts, in windows and batches, with odd shapes, few cores and many callers"
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from commands import python
import torch

from mini_llm import gpt
from mini_llm.attention import KVCache
from mini_llm.engine.decoding import Decoder, Unsupported, from_bfloat16, to_bfloat16
from mini_llm.engine.eightbits import from_int8, to_int8
from mini_llm.generate import generate_batch, generate_ids
from mini_llm.gpt import GPT, GPTConfig

SHAPES = [dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=64),
          dict(n_layer=1, n_head=3, n_embd=96, head_dim=16, n_ff=160),
          dict(n_layer=1, n_head=1, n_embd=32, context_length=17),
          dict(n_layer=3, n_head=2, n_kv_head=1, n_embd=128, rope_theta=1e6)]


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
    with torch.no_grad():
        plain = model(torch.tensor([ids]))[0].numpy()
        for p in model.parameters():
            if p.ndim == 2: p.copy_(torch.tensor(rounded(p.numpy())))
        want = model(torch.tensor([ids]))[0].numpy()
    got = decoder.feed([ids], decoder.new_cache(), every=True)
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert 1e-4 < np.abs(got - plain).max() < atol*np.abs(plain).max()


def test_rounding_of_extremes():
    x = np.array([0, -0., 1e-40, 3e38, -3e38, 1, 1+2**-8, 1+3*2**-8], np.float32)
    assert np.array_equal(from_bfloat16(to_bfloat16(x)), torch.tensor(x).bfloat16().float().numpy())
    rows = np.random.default_rng(0).normal(size=(50, 96)).astype(np.float32)
    rows *= np.logspace(-20, 20, 50)[:, None].astype(np.float32)
    q, scales = to_int8(rows)
    assert np.abs(q).max() == 127 and (np.abs(from_int8(q, scales) - rows) <= np.repeat(scales, 32, -1)*.5001).all()


def test_texts_are_the_same_alone_and_in_a_batch(tmp_path):
    wild(tmp_path, **SHAPES[0])
    for precision in 'float32', 'bfloat16', 'int8':
        decoder = Decoder(tmp_path, precision)
        prompts = [[i+1]*(1 + 5*i) for i in range(9)]
        alone = [list(generate_ids(decoder, p, 70, seed=i, end=[7, 8, 9])) for i, p in enumerate(prompts)]
        assert generate_batch(decoder, prompts, 70, seeds=range(9), end=[7, 8, 9]) == alone
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


@pytest.mark.parametrize('env', [dict(NUMBA_NUM_THREADS='1'), dict(OMP_THREAD_LIMIT='1'),
                                 dict(NUMBA_THREADING_LAYER='workqueue')])
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
    config = transformers.Qwen3Config(vocab_size=99, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, intermediate_size=128, max_position_embeddings=32, rope_theta=1e6,
        tie_word_embeddings=True)
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
    without_head_dim = {k: v for k, v in config.items() if k != 'head_dim'}
    for broken in '[]', '{', json.dumps(config | dict(hidden_size=None)), json.dumps(without_head_dim):
        (tmp_path/'config.json').write_text(broken)
        with pytest.raises(ValueError, match='config.json'): Decoder(tmp_path)
    (tmp_path/'config.json').write_text(json.dumps(config | dict(num_hidden_layers=3)))
    with pytest.raises(ValueError, match='model.safetensors does not fit'): Decoder(tmp_path)
    (tmp_path/'config.json').write_text(json.dumps(config | dict(intermediate_size=96)))
    with pytest.raises(ValueError, match='model.safetensors does not fit'): Decoder(tmp_path)


# --- a model in memory, and caches

def in_memory(**changes):
    "A model in memory whose parts matter"
    from mini_llm.engine.trial import heavy
    shape = dict(vocab_size=70, n_layer=2, n_head=4, n_kv_head=2, n_embd=64, context_length=32) | changes
    return heavy(GPT(GPTConfig(**shape))).eval()


def favourites(model, prompt, n=12):
    ids, cache = list(prompt), model.new_cache()
    new = ids
    for _ in range(n):
        if isinstance(model, Decoder): scores = model(new, cache)
        else:
            with torch.no_grad(): scores = model(torch.tensor([new]), cache)[0, -1].numpy()
        new = [int(scores.argmax())]
        ids += new
    return ids


def test_a_model_in_memory_is_packed_once():
    model = in_memory()
    ours = Decoder.of(model)
    assert favourites(ours, [1, 2, 3]) == favourites(model, [1, 2, 3])
    assert Decoder.of(model) is ours and Decoder.of(model.train()) is ours


def by_data(m): m.embed_tokens.weight.data.mul_(1.5)
def in_place(m):
    with torch.no_grad(): m.layers[1].mlp.down_proj.weight[3, 5] += 1
def by_vector(m):
    numbers = torch.randn(sum(p.numel() for p in m.parameters()))*.2
    torch.nn.utils.vector_to_parameters(numbers, m.parameters())
def replaced(m): m.layers[0].self_attn.q_norm.weight = torch.nn.Parameter(torch.rand(16)*3)
def loaded(m): m.load_state_dict({k: v*1.1 for k, v in m.state_dict().items()})


@pytest.mark.parametrize('change', [by_data, in_place, by_vector, replaced, loaded])
def test_a_model_in_memory_is_packed_anew(change):
    model = in_memory()
    old = Decoder.of(model)
    before = old([5, 6, 7], old.new_cache())
    change(model)
    ours = Decoder.of(model)
    assert ours is not old
    with torch.no_grad(): want = model(torch.tensor([[5, 6, 7]]))[0, -1].numpy()
    np.testing.assert_allclose(ours([5, 6, 7], ours.new_cache()), want, atol=1e-3)
    assert np.array_equal(old([5, 6, 7], old.new_cache()), before)      # who writes with it goes on as he began


def test_a_changed_model_writes_by_itself(monkeypatch, capsys):
    model = in_memory()
    Decoder.of(model)
    def with_gelu(self, x): return self.down_proj(torch.nn.functional.gelu(self.gate_proj(x)) * self.up_proj(x))
    monkeypatch.setattr(gpt.MLP, 'forward', with_gelu)
    with pytest.raises(Unsupported, match='its scores are others'): Decoder.of(model)
    assert capsys.readouterr().err.count('\n') == 1
    monkeypatch.undo()
    assert isinstance(Decoder.of(model), Decoder)
    monkeypatch.setattr(KVCache, 'append', lambda self, k, v: (k, v))
    with pytest.raises(Unsupported): Decoder.of(in_memory())


@pytest.mark.parametrize('change', [lambda m: m.double(), lambda m: m.bfloat16(), lambda m: m.to('meta'),
                                    lambda m: m.register_forward_hook(lambda *_: None),
                                    lambda m: setattr(m, 'layers', m.layers[:1])])
def test_models_that_no_decoder_knows(change):
    model = in_memory()
    change(model)
    with pytest.raises(Unsupported): Decoder.of(model)
    with pytest.raises(Unsupported): Decoder.of(in_memory(n_embd=40, head_dim=16))


def test_numbers_that_are_not_finite_are_an_error():
    model = in_memory()
    model.norm.weight.data[3] = float('nan')
    with pytest.raises(ValueError, match='norm.weight holds nan or infinity'): Decoder.of(model)
    model.norm.weight.data[:] = 3e38
    ours = Decoder.of(model)
    cache = ours.new_cache()
    with pytest.raises(ValueError, match='scores are not numbers'): ours([1, 2], cache)
    assert cache.lengths == [0]


def test_a_cache_of_another_model_is_refused_before_anything_changes():
    ours, other = Decoder.of(in_memory()), Decoder.of(in_memory(n_layer=1))
    for cache, new in ((other.new_cache(), [[1, 2]]), (ours.new_cache(1), [[1], [2]]),
                       (ours.new_cache(3), [[1], [2]]), (ours.new_cache(), [])):
        keys, values, lengths = cache.keys.copy(), cache.values.copy(), list(cache.lengths)
        with pytest.raises(ValueError, match='new_cache'): ours.feed(new, cache)
        assert np.array_equal(cache.keys, keys) and np.array_equal(cache.values, values)
        assert cache.lengths == lengths
    cache = ours.new_cache(2)
    for new in ([[1], [70]], [[1], [-1]], [[1], [1]*33], [[1], [1.5]], [[1], ['a']], [[], []]):
        with pytest.raises(ValueError): ours.feed(new, cache)
        assert cache.lengths == [0, 0] and not cache.keys.any()


def test_texts_that_are_written_at_once_are_those_written_alone():
    ours = Decoder.of(in_memory())
    prompts = [[i, i+1, i+2] for i in range(6)]
    alone = [favourites(ours, p) for p in prompts]
    with ThreadPoolExecutor(6) as pool: assert list(pool.map(lambda p: favourites(ours, p), prompts)) == alone
    models = [in_memory() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool: assert len(set(map(id, pool.map(Decoder.of, models*2)))) == 4


def test_threads_stay_as_they_were():
    import numba
    before = torch.get_num_threads(), numba.get_num_threads()
    ours = Decoder.of(in_memory())
    favourites(ours, [1])
    with pytest.raises(ValueError): ours([70], ours.new_cache())
    assert (torch.get_num_threads(), numba.get_num_threads()) == before
