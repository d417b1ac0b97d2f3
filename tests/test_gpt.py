"The model: equal to Qwen3ForCausalLM, whole on disk, causal, and modest before training"
import copy
import dataclasses
import json
import math
import pickle
import random
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from mini_llm.engine import files
from mini_llm.engine.layout import Unsupported
from mini_llm.gpt import GPT, GPTConfig, count_parameters
from mini_llm.workshop.plan import SIZES

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
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_equal_to_transformers(model, ids, qwen3, tmp_path, dtype):
    model.save(tmp_path, dtype)
    model = GPT.load(tmp_path)
    peer, info = qwen3.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    assert peer.dtype == getattr(torch, dtype)
    assert_close(peer.float()(ids).logits, model(ids), atol=1e-4, rtol=0)


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
        for n in range(len(data)-2):
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


def config_with(tmp_path, **changes):
    "A saved model, of whose config.json some fields are changed, or left out where None"
    random_model(SHAPES['plain']).save(tmp_path)
    config = json.loads((tmp_path/'config.json').read_text()) | changes
    (tmp_path/'config.json').write_text(json.dumps({k: v for k, v in config.items() if v != 'left out'}))
    return tmp_path


YARN = dict(rope_type='yarn', factor=4.0, original_max_position_embeddings=16)


@pytest.mark.parametrize('changes, word', [
    (dict(rope_scaling=YARN), 'rope_scaling is .yarn'),
    (dict(rope_scaling=YARN, rope_parameters='left out'), 'rope_scaling is .yarn'),
    (dict(rope_parameters=YARN | dict(rope_theta=1e4)), 'rope_parameters is .yarn'),
    (dict(rope_scaling=dict(type='linear', factor=2.)), 'linear'),
    (dict(rope_parameters=dict(rope_theta=1e4, partial_rotary_factor=.5)), 'partial_rotary_factor=0.5'),
    (dict(partial_rotary_factor=.5), 'partial_rotary'),
    (dict(rope_parameters=dict(full_attention=dict(rope_theta=1e4))), 'full_attention'),
    (dict(layer_types=['sliding_attention', 'full_attention']), 'layer_types'),
    (dict(num_experts=4), 'num_experts'), (dict(mlp_bias=True), 'mlp_bias'),
    (dict(quantization_config=dict(bits=4)), 'quantization_config'), (dict(model_type='qwen3_moe'), 'model_type'),
    (dict(dtype='float8_e4m3fn'), 'dtype'), (dict(torch_dtype=32), 'torch_dtype'),
    (dict(tie_word_embeddings='left out'), 'tie_word_embeddings')])
def test_a_sound_model_of_another_kind_is_called_unsupported(tmp_path, changes, word):
    with pytest.raises(Unsupported, match=f'config.json does not describe a model.*{word}'):
        GPT.load(config_with(tmp_path, **changes))


@pytest.mark.parametrize('changes, word', [
    (dict(num_hidden_layers=True), 'num_hidden_layers=True'), (dict(hidden_size=64.), 'hidden_size=64.0'),
    (dict(hidden_size=10**30), 'hidden_size=1000'), (dict(max_position_embeddings=10**9), 'max_position_embeddings'),
    (dict(rms_norm_eps=float('nan')), 'rms_norm_eps=nan'), (dict(rms_norm_eps='1e-6'), 'rms_norm_eps'),
    (dict(rope_theta=float('inf')), 'rope_theta=inf'), (dict(rope_theta=5.), 'twice'),
    (dict(rope_theta='left out', rope_parameters='left out'), 'rope_theta'),
    (dict(rope_parameters=[1]), 'rope_parameters is'), (dict(mini_llm=dict(dropout=2)), 'dropout=2'),
    (dict(mini_llm=3), 'mini_llm'), (dict(layer_types=3), 'layer_types'),
    (dict(layer_types=['full_attention']), 'layer_types'), (dict(num_key_value_heads=3), 'n_kv_head=3'),
    (dict(head_dim='left out'), 'head_dim'), (dict(dtype=['float32']), 'dtype'), (dict(dtype={}), 'dtype')])
def test_a_config_that_is_nonsense_is_refused_by_name(tmp_path, changes, word):
    with pytest.raises(ValueError, match=f'config.json does not describe a model.*{word}'):
        GPT.load(config_with(tmp_path, **changes))


@pytest.mark.parametrize('changes', [
    dict(rope_theta='left out'), dict(rope_parameters='left out'), dict(rope_scaling=None),
    dict(rope_scaling=dict(rope_type='default')), dict(layer_types=['full_attention']*2), dict(sliding_window=4096),
    dict(dtype='bfloat16', torch_dtype='left out'), dict(hidden_act='left out'), dict(initializer_range=.02)])
def test_all_spellings_of_our_model_are_read(tmp_path, changes):
    assert GPT.load(config_with(tmp_path, **changes)).cfg == random_model(SHAPES['plain']).cfg


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_weights_of_three_formats_are_read(model, tmp_path, dtype):
    model.save(tmp_path)
    if dtype == torch.bfloat16: model.save(tmp_path/'half', 'bfloat16')
    short = {k: v.to(dtype, copy=True) for k, v in load_file(tmp_path/'model.safetensors').items()}
    tied = {'lm_head.weight': short['model.embed_tokens.weight'].clone()}
    save_file(short | tied, tmp_path/'model.safetensors')
    for k, v in GPT.load(tmp_path).state_dict().items(): assert torch.equal(v, short[f'model.{k}'].float()), k
    if dtype == torch.bfloat16:
        loaded = load_file(tmp_path/'half'/'model.safetensors')
        assert all(torch.equal(v, short[k]) and v.dtype == dtype for k, v in loaded.items())
        assert json.loads((tmp_path/'half'/'config.json').read_text())['dtype'] == 'bfloat16'


@pytest.mark.parametrize('name, spoil, word', [
    ('lm_head.weight', lambda w: torch.ones(256, 64), 'lm_head.weight is not embed_tokens.weight'),
    ('model.norm.weight', lambda w: w * math.nan, 'norm.weight holds nan'),
    ('model.norm.weight', lambda w: w.double(), 'norm.weight is F64'),
    ('model.norm.weight', lambda w: torch.ones(3), r'norm.weight has the shape \(3,\), not'),
    ('wte', lambda w: torch.ones(3), 'it has wte')])
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, name, spoil, word):
    random_model(SHAPES['plain']).save(tmp_path)
    tensors = load_file(tmp_path/'model.safetensors')
    save_file(tensors | {name: spoil(tensors.get(name))}, tmp_path/'model.safetensors')
    with pytest.raises(ValueError, match=f'model.safetensors does not fit config.json: .*{word}'): GPT.load(tmp_path)


@pytest.mark.parametrize('times', [300, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', ['config.json', 'model.safetensors'])
def test_flipped_bits_are_read_or_refused_but_never_crash(tmp_path, name, times):
    random_model(SHAPES['one_of_each']).save(tmp_path)
    rng, data, refused = random.Random(0), (tmp_path/name).read_bytes(), 0
    for _ in range(times):
        bad = bytearray(data)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        (tmp_path/name).write_bytes(bad)
        try: GPT.load(tmp_path)
        except ValueError as e:
            refused += 1
            assert 'config.json' in str(e)
    assert refused > times/20
    print(f'{name}: {times} flips, {refused} refused, the rest read as other numbers')


def test_a_changed_shape_works_out_again_what_was_not_given():
    cfg = GPTConfig(301, n_embd=32, n_head=2)
    for again in (cfg, copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg)), GPTConfig(**dataclasses.asdict(cfg))):
        assert again == cfg and repr(again) == repr(cfg) and hash(again) == hash(cfg)
        assert dataclasses.replace(again, n_embd=64) == GPTConfig(301, n_embd=64, n_head=2)
        assert dataclasses.replace(again, n_head=4).n_kv_head == 4
    given = GPTConfig(301, n_embd=32, n_head=4, n_kv_head=2, head_dim=8, n_ff=100)
    wider = dataclasses.replace(given, n_embd=64)
    assert (wider.n_kv_head, wider.head_dim, wider.n_ff) == (2, 8, 100)
    assert json.loads(json.dumps(dataclasses.asdict(cfg))) == dataclasses.asdict(cfg)
    assert all(isinstance(o, int) for o in (cfg.n_kv_head, cfg.head_dim, cfg.n_ff)) and cfg.n_ff // 2 == 64


def test_a_shape_of_numpy_numbers_is_saved(tmp_path):
    cfg = GPTConfig(np.int64(300), n_layer=np.int32(1), n_head=np.uint8(1), n_embd=np.int64(32), dropout=np.float32(.5))
    assert not any(isinstance(v, np.generic) for v in dataclasses.asdict(cfg).values())
    GPT(cfg).save(tmp_path)
    assert GPT.load(tmp_path).cfg == cfg


@pytest.mark.parametrize('field, value', [
    ('n_layer', True), ('vocab_size', '300'), ('dropout', True), ('dropout', math.nan), ('n_ff', 2.5),
    ('n_kv_head', np.True_), ('n_embd', None), ('context_length', 10**12), ('norm_eps', 5), ('rope_theta', math.inf)])
def test_what_is_no_number_or_out_of_range_is_refused(field, value):
    with pytest.raises(ValueError, match=f'^{field}='): GPTConfig(**dict(dict(vocab_size=300), **{field: value}))


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


def test_a_cache_of_another_model_or_batch_is_refused_and_stays_as_it_was(model, ids):
    other = GPT(dataclasses.replace(model.cfg, n_layer=model.cfg.n_layer + 1)).new_cache(2)
    with pytest.raises(ValueError, match='the cache is for .* layers'): model(ids[:, :3], other)
    cache = model.new_cache(2)
    for texts in (ids[:1], ids.repeat(2, 1)):
        with pytest.raises(ValueError, match='the cache is for 2 texts'): model(texts[:, :3], cache)
    assert [o.length for o in cache + other] == [0]*(len(cache) + len(other))
    assert_close(model(ids[:, :3], cache), model(ids[:, :3]))


@pytest.mark.parametrize('spoil, word', [
    (lambda t: t - 1000, 'ids from -'), (lambda t: t*0 - 100, 'at least one'), (lambda t: t*0 - 1, 'ids from -1'),
    (lambda t: t + 1000, 'do not fit vocab_size'),
    (lambda t: t[:, 1:], 'targets of shape'), (lambda t: t.flatten(), 'targets of shape'),
    (lambda t: t.float(), 'float32')])
def test_targets_that_are_no_answers_are_refused(model, ids, spoil, word):
    with pytest.raises(ValueError, match=word): model.loss(ids, spoil(ids))


def test_what_is_not_asked_does_not_count(model, ids):
    targets = ids.roll(-1, 1)
    some = targets.clone()
    some[:, 10:] = -100
    assert_close(model.loss(ids, some), model.loss(ids[:, :10], targets[:, :10]))


def test_every_parameter_learns(model, ids):
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    for name, p in model.named_parameters(): assert p.grad.abs().max() > 0, name


@torch.no_grad()
@pytest.mark.parametrize('vocab_size', [256, 1024, 16_384])
@pytest.mark.parametrize('size', ['nano', 'mini', 'base'])
def test_untrained_loss(size, vocab_size):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size, **SIZES[size]))
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
