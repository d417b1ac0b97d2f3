"The model: equal to Qwen3ForCausalLM, whole on disk, causal, and modest before training"
import json
import math
import random
import warnings

import pytest
from commands import python
import torch
from torch.testing import assert_close

from mini_llm.engine import files
from mini_llm.gpt import GPT, PRESETS, GPTConfig, count_parameters

SHAPES = dict(
    plain=dict(vocab_size=256),
    grouped=dict(vocab_size=300, n_head=6, n_kv_head=2, n_embd=96),
    own_head_dim=dict(vocab_size=300, n_head=3, n_kv_head=1, head_dim=10, n_ff=50, rope_theta=500., norm_eps=1e-5),
    one_of_each=dict(vocab_size=5, n_layer=1, n_head=1, n_embd=2),
)


def random_model(shape):
    "A model in which every weight, norms included, is random"
    torch.manual_seed(0)
    model = GPT(GPTConfig(**dict(dict(n_layer=2, n_embd=64, context_length=32), **shape))).eval()
    for p in model.parameters(): torch.nn.init.normal_(p, std=0.2)
    return model


@pytest.fixture(params=SHAPES)
def model(request): return random_model(SHAPES[request.param])


@pytest.fixture
def ids(model): return torch.randint(model.cfg.vocab_size, (2, model.cfg.context_length))


@pytest.fixture
def qwen3():
    transformers = pytest.importorskip('transformers')
    transformers.utils.logging.disable_progress_bar()
    return transformers.Qwen3ForCausalLM


@torch.no_grad()
def test_equal_to_transformers(model, ids, qwen3, tmp_path):
    model.save(tmp_path)
    peer, info = qwen3.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    assert peer.dtype == torch.float32
    assert_close(peer(ids).logits, model(ids), atol=1e-4, rtol=0)


def test_back_from_transformers(model, ids, qwen3, tmp_path):
    model.save(tmp_path/'ours')
    qwen3.from_pretrained(tmp_path/'ours').save_pretrained(tmp_path/'theirs')
    back = GPT.load(tmp_path/'theirs')
    assert back.cfg == model.cfg
    assert torch.equal(back(ids), model(ids))


@torch.no_grad()
def test_greedy_text_equal_to_transformers(model, ids, qwen3, tmp_path):
    model.save(tmp_path)
    prompt = ids[:1, :5]
    theirs = qwen3.from_pretrained(tmp_path).generate(prompt, do_sample=False, max_new_tokens=20, pad_token_id=0)
    cache, ours = model.new_cache(), prompt
    step = prompt
    for _ in range(20):
        step = model(step, cache)[:, -1:].argmax(-1)
        ours = torch.cat([ours, step], dim=1)
    assert torch.equal(ours, theirs)


def test_save_and_load(model, ids, tmp_path):
    model.save(tmp_path/'a')
    loaded = GPT.load(tmp_path/'a')
    loaded.save(tmp_path/'b')
    assert loaded.cfg == model.cfg and not loaded.training
    assert torch.equal(loaded(ids), model(ids))
    for name in ('config.json', 'model.safetensors'):
        assert (tmp_path/'a'/name).read_bytes() == (tmp_path/'b'/name).read_bytes()


def test_a_crash_while_saving_leaves_the_old_model(tmp_path, monkeypatch):
    old = random_model(SHAPES['plain'])
    old.save(tmp_path)
    was = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    def crash(*args): raise OSError('the disk is full')
    monkeypatch.setattr(files.os, 'fsync', crash)
    with pytest.raises(OSError, match='disk is full'): GPT(old.cfg).save(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == was


def test_every_truncation_is_refused(tmp_path):
    random_model(SHAPES['one_of_each']).save(tmp_path)
    for name in ('config.json', 'model.safetensors'):
        path = tmp_path/name
        data = path.read_bytes()
        for n in {0, 1, 7, 8, 9, *range(10, len(data)-2, 37)}:
            path.write_bytes(data[:n])
            with pytest.raises(ValueError, match=name): GPT.load(tmp_path)
        path.write_bytes(data)
    GPT.load(tmp_path)


def test_a_pickle_is_refused(tmp_path):
    model = random_model(SHAPES['plain'])
    model.save(tmp_path)
    torch.save(model.state_dict(), tmp_path/'model.safetensors')
    with pytest.raises(ValueError, match='model.safetensors does not fit'): GPT.load(tmp_path)


@pytest.mark.parametrize('field, value', [('hidden_act', 'gelu'), ('tie_word_embeddings', False),
    ('attention_bias', True), ('use_sliding_window', True), ('vocab_size', -1), ('vocab_size', None),
    ('num_hidden_layers', '2'), ('head_dim', 7)])
def test_a_config_we_cannot_honour_is_refused(tmp_path, field, value):
    random_model(SHAPES['plain']).save(tmp_path)
    config = json.loads((tmp_path/'config.json').read_text())
    (tmp_path/'config.json').write_text(json.dumps(config | {field: value}))
    with pytest.raises(ValueError, match='config.json does not describe a model'): GPT.load(tmp_path)


@torch.no_grad()
def test_cached_equals_uncached(model, ids):
    rng = random.Random(0)
    want = model(ids)
    for _ in range(5):
        ends = [0, *sorted(rng.sample(range(1, 32), rng.randint(0, 31))), 32]
        cache = model.new_cache(batch_size=2)
        got = torch.cat([model(ids[:, a:b], cache) for a, b in zip(ends, ends[1:])], dim=1)
        assert_close(got, want, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match='33 tokens do not fit context_length=32'): model(ids[:, :1], cache)


@torch.no_grad()
def test_causal(model, ids):
    for t in (1, 16, 31):
        changed = ids.clone()
        changed[:, t:] = (ids[:, t:] + 1) % model.cfg.vocab_size
        assert_close(model(changed)[:, :t], model(ids)[:, :t])
        assert not torch.allclose(model(changed)[:, t:], model(ids)[:, t:])


def test_every_parameter_learns(model, ids):
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    for name, p in model.named_parameters(): assert p.grad.abs().max() > 0, name


@torch.no_grad()
@pytest.mark.parametrize('vocab_size', [256, 1024, 16_384])
@pytest.mark.parametrize('preset', PRESETS)
def test_untrained_loss(preset, vocab_size):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size, **PRESETS[preset]))
    t = model.cfg.context_length + 1
    text = ('Yo sé quién soy, respondió don Quijote. ' * 20).encode()
    for ids in (torch.randint(vocab_size, (2, t)), torch.tensor([list(text[:t])])):
        assert abs(model.loss(ids[:, :-1], ids[:, 1:]).item() - math.log(vocab_size)) < 0.1


def test_bfloat16_is_quiet_and_close(model, ids):
    want = model.loss(ids[:, :-1], ids[:, 1:])
    with warnings.catch_warnings(), torch.autocast('cpu', torch.bfloat16):
        warnings.simplefilter('error')
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
    assert loss.dtype == torch.float32
    assert_close(loss, want, atol=0.05, rtol=0.05)


def test_same_seed_same_weights():
    a, b = random_model(SHAPES['plain']), random_model(SHAPES['plain'])
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


def test_dropout_only_in_training():
    model = GPT(GPTConfig(256, dropout=0.5))
    ids = torch.zeros(1, 8, dtype=torch.int64)
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_count_is_all_parameters(model):
    counts = count_parameters(model)
    assert counts.pop('total') == sum(counts.values()) == sum(p.numel() for p in model.parameters())


def test_import_stays_small():
    heavy = ['matplotlib', 'transformers', 'numba', 'IPython']
    code = f"import sys, mini_llm.gpt; print([o for o in {heavy} if o in sys.modules])"
    assert python(code) == '[]'
