"What is seen inside a model is what the model computes, for any shape, and looking leaves no trace"
import math

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from mini_llm.bpe import END_OF_TEXT, Tokenizer
from mini_llm.gpt import GPT, GPTConfig
from mini_llm.gallery.inside import (attention_maps, lens_bits, logit_lens, plot_lens, plot_maps, streams, token_names,
                             weight_back)

matplotlib.use('agg')
import matplotlib.pyplot as plt  # noqa: E402

SHAPES = [dict(n_layer=1, n_head=1, n_embd=16), dict(n_layer=3, n_head=4, n_kv_head=2, n_embd=32, dropout=.3),
          dict(n_layer=2, n_head=3, n_kv_head=1, n_embd=20, head_dim=12)]


@pytest.fixture(params=SHAPES, ids=str)
def model(request):
    torch.manual_seed(0)
    res = GPT(GPTConfig(vocab_size=70, context_length=24, **request.param))
    for p in res.parameters(): torch.nn.init.normal_(p, std=.3)          # far from the start, so that all parts matter
    return res


@pytest.fixture
def ids(): return torch.randint(70, (24,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


def test_streams_are_those_of_the_model(model, ids):
    found = streams(model, ids)
    model.eval()
    assert_close(found[0], model.embed_tokens(ids))
    for x, y, layer in zip(found, found[1:], model.layers): assert_close(layer(x[None], model.cos, model.sin)[0], y)
    assert_close(model.norm(found[-1]), model.hidden_states(ids[None])[0])


def test_maps_are_those_of_the_model(model, ids):
    maps, c = attention_maps(model, ids), model.cfg
    assert maps.shape == (c.n_layer, c.n_head, 24, 24) and maps.min() >= 0
    assert_close(maps.sum(-1), torch.ones(c.n_layer, c.n_head, 24))
    assert not maps.triu(1).any()
    for x, weights, layer in zip(streams(model, ids), maps, model.layers):
        x, attn = layer.input_layernorm(x[None]), layer.self_attn
        q, k, v = attn.project(x, model.cos, model.sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0]
        assert_close(weights @ v[0].repeat_interleave(c.n_head//c.n_kv_head, dim=0), mixed, atol=1e-5, rtol=1e-5)
        assert_close(
            attn.o_proj(mixed.transpose(0, 1).flatten(1)), attn(x, model.cos, model.sin)[0], atol=1e-5, rtol=1e-5
        )


def test_lens_ends_in_the_answer_of_the_model(model, ids):
    lens = logit_lens(model, ids)
    model.eval()
    assert lens.shape == (model.cfg.n_layer+1, 24, 70) and not lens.requires_grad
    assert_close(lens[-1], model(ids[None])[0])
    bits = lens_bits(lens, ids)
    assert bits.shape == (model.cfg.n_layer+1, 23)
    assert bits[-1].mean().item() == pytest.approx(
        model.loss(ids[None, :-1], ids[None, 1:]).item() / math.log(2), rel=1e-4
    )


def test_the_future_is_not_seen(model, ids):
    other = ids.clone()
    other[15:] = (other[15:] + 1) % 70
    for look, dim in (streams, 1), (logit_lens, 1), (attention_maps, 2):
        a, b = (look(model, o).narrow(dim, 0, 15) for o in (ids, other))
        assert_close(a, b)


def test_looking_leaves_no_trace(model, ids):
    for training in True, False:
        model.train(training)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        for look in streams, attention_maps, logit_lens: look(model, ids)
        with pytest.raises(ValueError): streams(model, [70])
        assert model.training is training and all(o.training is training for o in model.modules())
        assert not any(o._forward_hooks or o._forward_pre_hooks for o in model.modules())
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())


def test_ids_of_any_kind(model, ids):
    expected = logit_lens(model, ids)
    for o in ids.tolist(), tuple(ids.tolist()), ids.numpy(), ids.numpy().astype(np.int32), ids.int():
        assert_close(logit_lens(model, o), expected)
        assert_close(lens_bits(expected, o), lens_bits(expected, ids))
    assert logit_lens(model, [3]).shape[1] == 1 and lens_bits(logit_lens(model, [3]), [3]).shape[1] == 0


@pytest.mark.parametrize(
    'wrong, words',
    [
        ([], 'at least one'),
        ([[1, 2]], 'of one text'),
        ([0] * 25, '25 tokens do not fit context_length=24'),
        ([70], 'another tokenizer'),
        ([-1], 'another tokenizer'),
        ([1.5], 'int32 or int64'),
    ],
)
def test_wrong_ids_are_told(model, wrong, words):
    for look in streams, attention_maps, logit_lens:
        with pytest.raises(ValueError, match=words): look(model, wrong)


def test_weight_back():
    maps = torch.zeros(1, 2, 5, 5)
    maps[0, 0].diagonal(-1).fill_(1)
    assert weight_back(maps, 1).tolist() == [[1, 0]] and weight_back(maps, 4).tolist() == [[0, 0]]
    for distance in -1, 5:
        with pytest.raises(ValueError, match=f'distance={distance} must be from 0 to 4'): weight_back(maps, distance)


def test_plots_say_what_is_so(model, ids):
    names = [f't{i}' for i in range(69)] + ['·encaballerado']
    maps, lens = attention_maps(model, ids), logit_lens(model, ids)
    axs = plot_maps(maps, [names[i] for i in ids])
    assert axs.shape == (model.cfg.n_head, model.cfg.n_layer)
    assert_close(torch.tensor(axs[-1, 0].images[0].get_array()), maps[0, -1])
    ax = plot_lens(lens, ids, names, ax=plt.subplots()[1])
    top = lens.argmax(-1)
    assert [o.get_text() for o in ax.texts] == [
        n if len(n) < 8 else '·encab…' for n in (names[i] for i in top.flatten())
    ]
    assert len(ax.patches) == (top[:, :-1] == ids[1:]).sum()
    assert [o.get_text() for o in ax.get_yticklabels()][0] == 'embedding'
    for wrong in (
        lambda: plot_lens(lens, ids[1:], names),
        lambda: lens_bits(lens, ids[1:]),
        lambda: plot_maps(maps, names[:2]),
    ):
        with pytest.raises(ValueError, match='do not fit'): wrong()


def test_names_show_every_token():
    tok = Tokenizer.train('ñoñeña', 257, special_tokens=[END_OF_TEXT])
    names = token_names(tok)
    assert len(names) == tok.n_vocab == 258 and names[-1] == END_OF_TEXT
    assert names[10] == '↵' and names[32] == '·' and names[195] == r'\xc3' and 'ñ' in names
