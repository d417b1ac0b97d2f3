"Attention against transformers, and in all the ways a text can be cut"
import warnings

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close

from mini_llm.attention import Attention, KVCache, RMSNorm, apply_rope, rope_table

T = 12  # tokens in every test


@pytest.fixture(scope='module', params=[(4, 4, None), (4, 2, 16), (6, 1, 10)], ids=str)
def layer(request):
    "A layer, its rotary table and an input; heads shared or not, head size given or not"
    torch.manual_seed(0)
    n_head, n_kv_head, head_dim = request.param
    attn = Attention(48, n_head, n_kv_head, head_dim)
    for norm in (attn.q_norm, attn.k_norm): torch.nn.init.normal_(norm.weight, mean=1, std=0.3)
    return attn, *rope_table(T, attn.head_dim), torch.randn(2, T, 48)


def in_pieces(layer, sizes):
    attn, cos, sin, x = layer
    cache = KVCache(len(x), attn.k_proj.out_features // attn.head_dim, T, attn.head_dim)
    return torch.cat([attn(o, cos, sin, cache) for o in x.split(sizes, dim=1)], dim=1)


@given(cuts=st.sets(st.integers(1, T-1)))
@settings(deadline=None, max_examples=30)
def test_any_cut_gives_the_same(layer, cuts):
    attn, cos, sin, x = layer
    ends = [0, *sorted(cuts), T]
    assert_close(in_pieces(layer, [b-a for a, b in zip(ends, ends[1:])]), attn(x, cos, sin))


@pytest.mark.parametrize('t', range(1, T))
def test_causal_at_every_position(layer, t):
    attn, cos, sin, x = layer
    changed = x.clone()
    changed[:, t:] = torch.randn_like(changed[:, t:])
    was, now = attn(x, cos, sin), attn(changed, cos, sin)
    assert_close(now[:, :t], was[:, :t])
    assert not torch.allclose(now[:, t:], was[:, t:])


def test_texts_of_a_batch_do_not_meet(layer):
    attn, cos, sin, x = layer
    assert_close(attn(x[1:], cos, sin), attn(x, cos, sin)[1:])


def test_bfloat16_is_quiet_and_close(layer):
    attn, cos, sin, x = layer
    with warnings.catch_warnings(), torch.autocast('cpu', torch.bfloat16):
        warnings.simplefilter('error')
        y = attn(x, cos, sin)
    assert y.dtype == torch.bfloat16
    assert_close(y.float(), attn(x, cos, sin), atol=3e-2, rtol=3e-2)


def test_rope_equals_transformers():
    qwen3 = pytest.importorskip('transformers.models.qwen3.modeling_qwen3')
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 2, T, 16)
    cos, sin = rope_table(T, 16)
    both = [torch.cat([o, o], dim=-1)[None] for o in (cos, sin)]
    assert_close((apply_rope(q, cos, sin), apply_rope(k, cos, sin)), qwen3.apply_rotary_pos_emb(q, k, *both))


def test_rope_far_out_is_exact():
    cos, sin = rope_table(200_001, 2)
    angle = torch.tensor(200_000., dtype=torch.float64)
    assert_close((cos[-1, 0], sin[-1, 0]), (angle.cos().float(), angle.sin().float()), atol=0, rtol=0)


def test_norm_equals_torch():
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert_close(RMSNorm(8, eps=1e-6)(x), torch.nn.RMSNorm(8, eps=1e-6)(x), atol=0, rtol=0)
