"Training and evaluating by kernels gives what the model itself gives, or is not used"
import copy
import dataclasses
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mini_llm import attention, gpt
from mini_llm.engine import trial
from mini_llm.engine.backprop import Backprop, backprop_rooms
from mini_llm.engine.device import Device, memory_here, reading, seeded, this_machine, torch_threads
from mini_llm.engine.gradients import Autograd, gradients, memory_needed
from mini_llm.engine.trial import heavy, kind, unlike
from mini_llm.gpt import GPT, GPTConfig
from mini_llm.train import evaluate, make_optimizers, step_rate, train_step

SHAPE = GPTConfig(vocab_size=60, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, context_length=16, dropout=.2)
DRY = dataclasses.replace(SHAPE, dropout=0.)


def batch(n=3, t=16, seed=0):
    return torch.randint(60, (2, n, t), generator=torch.Generator().manual_seed(seed))


def strong(cfg=DRY, model=None):
    "A model whose parts matter, in training mode"
    return heavy(model or GPT(cfg))


def both(model, batch_size=3):
    "Loss and gradients by what `gradients` gives, and by autograd on a copy"
    ids, targets = batch()
    ways = gradients(model, Device(threads=2), batch_size), Autograd(copy.deepcopy(model), batch_size=batch_size)
    res = []
    for way in ways:
        loss, trained = way.loss(ids, targets), way.backward(ids, targets)
        res.append((loss, trained, [p.grad for p in way.model.parameters()]))
    return type(ways[0]), *res


def assert_same(model):
    "That both ways give the same; the class of the one that was chosen"
    chosen, ours, theirs = both(model)
    assert ours[:2] == pytest.approx(theirs[:2], rel=1e-4)
    for a, b in zip(ours[2], theirs[2]):
        assert (a is None) == (b is None)
        if a is not None: assert (a-b).norm() <= 1e-3*b.norm()
    return chosen


@contextmanager
def changed(owner, name, value):
    was = vars(owner)[name]
    setattr(owner, name, value)
    try: yield
    finally: setattr(owner, name, was)


def gelu(self, x): return self.down_proj(F.gelu(self.gate_proj(x)) * self.up_proj(x))


def relu2(self, x): return self.down_proj(F.relu(self.gate_proj(x))**2 * self.up_proj(x))


def no_norm(self, x, cos, sin, cache=None):
    x = x + self.dropout(self.self_attn(self.input_layernorm(x), cos, sin, cache))
    return x + self.dropout(self.mlp(x))


def neighbours(x, cos, sin):
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a*cos - b*sin, b*cos + a*sin], -1).flatten(-2)


def window(t, start=0): return torch.ones(t, start+t, dtype=torch.bool).tril(start).triu(start-3)


plain_forward, plain_loss = GPT.forward, GPT.loss


def capped(self, ids, cache=None): return 30*torch.tanh(plain_forward(self, ids, cache)/30)


def smoothed(self, ids, targets): return F.cross_entropy(self(ids).flatten(0, 1), targets.flatten(), label_smoothing=.1)


def stopped(self, x): return self.down_proj(F.silu(self.gate_proj(x).detach()) * self.up_proj(x))


def in_training_only(self, x):
    gate = F.gelu(self.gate_proj(x)) if self.training else F.silu(self.gate_proj(x))
    return self.down_proj(gate * self.up_proj(x))


CLASSES = dict(gelu=(gpt.MLP, 'forward', gelu), relu2=(gpt.MLP, 'forward', relu2),
               stopped=(gpt.MLP, 'forward', stopped), training=(gpt.MLP, 'forward', in_training_only),
               no_norm=(gpt.Block, 'forward', no_norm), neighbours=(attention, 'apply_rope', neighbours),
               capped=(GPT, 'forward', capped), smoothed=(GPT, 'loss', smoothed), silu=(F, 'silu', F.gelu))


def test_the_model_of_the_chapter_is_computed_by_kernels(capsys):
    assert assert_same(strong()) is Backprop
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('name', CLASSES)
def test_a_changed_class_is_noticed(name, capsys):
    gradients(GPT(DRY))                     # found to be sound before it is changed
    with changed(*CLASSES[name]):
        assert assert_same(strong()) is Autograd
        gradients(GPT(DRY))
        said = capsys.readouterr().err
        assert said.count('\n') == 1 and 'computed by autograd' in said
    assert assert_same(strong()) is Backprop
    assert capsys.readouterr().err == ''


def test_a_window_in_the_mask_is_noticed():
    def forward(self, x, cos, sin, cache=None):
        q, k, v = self.project(x, cos, sin)
        k, v = (o.repeat_interleave(q.shape[1]//o.shape[1], 1) for o in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, window(x.shape[1]))
        return self.o_proj(y.transpose(1, 2).flatten(2))
    with changed(attention.Attention, 'forward', forward): assert assert_same(strong()) is Autograd


def own_dropout(m): m.layers[0].dropout = type('Mine', (nn.Dropout,), dict(forward=lambda self, x: x*.5))(.2)
def alpha(m): m.dropout = nn.AlphaDropout(.2)
def identity(m): m.layers[1].dropout = nn.Identity()
def shared(m): m.layers[1].dropout = m.layers[0].dropout
def one_more(m): m.layers[0].mlp.down_proj = nn.Sequential(m.layers[0].mlp.down_proj, nn.Dropout(.3))
def hook(m): m.layers[0].mlp.register_forward_hook(lambda m, x, y: 2*y)
def before(m): m.norm.register_forward_pre_hook(lambda m, x: (x[0]*3,))
def of_gradient(m): m.norm.weight.register_hook(lambda g: 2*g)
def parameter(m): m.bias = nn.Parameter(torch.zeros(3))
def buffer(m): m.register_buffer('seen', torch.zeros(3))
def shared_weight(m): m.layers[0].self_attn.v_proj.weight = m.layers[0].self_attn.k_proj.weight
def shared_layer(m): m.layers[1] = m.layers[0]
def deeper(m): m.layers.append(gpt.Block(m.cfg))
def shallower(m): m.layers = m.layers[:1]
def eps(m): m.layers[0].post_attention_layernorm.eps = .1
def instance(m): m.layers[0].mlp.forward = gelu.__get__(m.layers[0].mlp)
def lora(m): m.layers[0].self_attn.q_proj = nn.Sequential(nn.Linear(32, 4, bias=False), nn.Linear(4, 32, bias=False))
def weight_norm(m): nn.utils.parametrizations.weight_norm(m.layers[0].mlp.up_proj)


@pytest.mark.parametrize('change', [own_dropout, alpha, identity, one_more, hook, before, of_gradient,
                                    parameter, buffer, shared, shared_weight, shared_layer, deeper, shallower,
                                    eps, instance, lora, weight_norm])
def test_a_changed_model_is_noticed(change, capsys):
    model = GPT(SHAPE)
    change(model)
    trial._SAID.clear()
    assert type(gradients(model)) is Autograd
    assert 'computed by autograd' in capsys.readouterr().err
    with pytest.raises(ValueError, match='do not know this model'):
        if not unlike(model): raise ValueError('do not know this model')     # such a one only a try can tell
        Backprop(model, 2)
    dry = strong(DRY)
    if change in (hook, before, buffer, eps, instance, lora, weight_norm, shared_weight, shallower):
        change(dry)
        assert_same(dry)


def test_another_format_is_computed_in_it():
    for m in (GPT(DRY).double(), GPT(DRY).bfloat16()):
        way = gradients(m)
        assert type(way) is Autograd
        assert way.loss(*batch()) == pytest.approx(m.loss(*batch()).item(), rel=1e-2)


def test_frozen_parameters_stay_without_a_gradient():
    model = strong()
    for n, p in model.named_parameters(): p.requires_grad_('mlp' in n)
    assert assert_same(model) is Backprop
    assert model.norm.weight.grad is None and model.layers[0].mlp.up_proj.weight.grad is not None
    for p in model.parameters(): p.requires_grad_(False)
    for way in (Backprop(model, 3), Autograd(model)):
        with pytest.raises(ValueError, match='all are frozen'): way.backward(*batch())


def by_data(m):
    for p in m.parameters(): p.data.mul_(1.5)
def by_vector(m): nn.utils.vector_to_parameters(torch.randn(sum(p.numel() for p in m.parameters()))*.3, m.parameters())
def replaced(m):
    m.norm.weight = nn.Parameter(torch.rand(32)*3)
    m.embed_tokens.weight = nn.Parameter(torch.randn(60, 32)*.3)
    m.layers[1].self_attn.k_norm.weight = nn.Parameter(torch.rand(8)*3)
    m.layers[0].mlp.up_proj.weight = nn.Parameter(torch.randn(128, 32))
def other_memory(m):
    for p in m.parameters(): p.data = torch.randn_like(p)
def turned(m): m.cos, m.sin = m.sin.clone(), m.cos.clone()
def by_numpy(m): m.layers[0].self_attn.v_proj.weight.detach().numpy()[:] += 1


@pytest.mark.parametrize('change', [by_data, by_vector, replaced, other_memory, turned, by_numpy])
def test_weights_changed_between_calls(change):
    model = strong()
    ids, targets = batch()
    way = gradients(model, Device(threads=2), 3)
    assert type(way) is Backprop
    old = way.loss(ids, targets)
    way.backward(ids, targets)
    model.zero_grad()
    change(model)
    with reading(model): want = model.loss(ids, targets).item()
    assert want != pytest.approx(old, rel=1e-3)
    assert way.loss(ids, targets) == pytest.approx(want, rel=1e-4)
    assert way.backward(ids, targets) == pytest.approx(want, rel=1e-4)
    grads = torch.autograd.grad(model.loss(ids, targets), list(model.parameters()))
    assert all((p.grad-g).norm() <= 1e-3*g.norm() for p, g in zip(model.parameters(), grads))


def test_a_class_changed_between_calls():
    model = strong()
    way = gradients(model, batch_size=3)
    with changed(*CLASSES['gelu']), pytest.raises(ValueError, match='model was changed after its kernels were made'):
        way.loss(*batch())
    assert way.loss(*batch()) > 0
    model.norm.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match='ask `gradients.model.` again'): way.backward(*batch())


def test_dropout_follows_its_modules():
    ids, targets = batch()
    model = strong(SHAPE)
    way = gradients(model, batch_size=3)
    assert type(way) is Backprop
    wet = way.backward(ids, targets)
    assert wet != pytest.approx(way.loss(ids, targets), rel=1e-3)
    model.eval()                            # as in autograd, `backward` in evaluation mode drops nothing
    assert way.backward(ids, targets) == pytest.approx(way.loss(ids, targets), rel=1e-5)
    model.zero_grad()
    assert assert_same(model) is Backprop
    model.train()
    for m in model.modules():
        if isinstance(m, nn.Dropout): m.p = 0.
    assert way.backward(ids, targets) == pytest.approx(way.loss(ids, targets), rel=1e-5)
    for m in model.modules():
        if isinstance(m, nn.Dropout): m.p = 1.
    assert way.backward(ids, targets) == pytest.approx(Autograd(model).backward(ids, targets), rel=1e-4)


def test_ids_and_targets_of_both_kinds():
    model, (ids, targets) = strong(), batch()
    part = ids[:2, 3:9], targets[:2, 3:9]
    want, want_of_part = model.loss(ids, targets).item(), model.loss(*part).item()
    for way in (Backprop(model, 3), Autograd(model)):
        assert way.loss(ids.int(), targets) == pytest.approx(want, rel=1e-4)
        assert way.loss(ids.T.contiguous().T, targets.int()) == pytest.approx(want, rel=1e-4)
        assert way.loss(*part) == pytest.approx(want_of_part, rel=1e-4)


IDS, TARGETS = batch()
BAD = dict(beyond=(IDS+60, TARGETS), negative=(IDS-1-IDS.max(), TARGETS),
           target_beyond=(IDS, TARGETS+60), below=(IDS, TARGETS-62),
           one_not_asked=(IDS, TARGETS.where(TARGETS > 5, -1)), none_asked=(IDS, TARGETS*0-1),
           shapes=(IDS, TARGETS[:, :5]), one=(IDS[0], TARGETS[0]), three=(IDS[None], TARGETS[None]),
           empty=(IDS[:0], TARGETS[:0]), no_time=(IDS[:, :0], TARGETS[:, :0]),
           many=(IDS.repeat(2, 1), TARGETS.repeat(2, 1)), long=(IDS.repeat(1, 2), TARGETS.repeat(1, 2)),
           floats=(IDS.float(), TARGETS), short=(IDS, TARGETS.short()), boolean=(IDS > 3, TARGETS),
           lists=(IDS.tolist(), TARGETS), array=(IDS, TARGETS.numpy()))


@pytest.mark.parametrize('name', BAD)
def test_both_refuse_the_same_batches_in_the_same_words(name):
    model, said = GPT(DRY), set()
    for way in (Backprop(model, 3), Autograd(model, batch_size=3)):
        for call in (way.loss, way.backward):
            with pytest.raises(ValueError) as e: call(*BAD[name])
            said.add(str(e.value))
    assert len(said) == 1
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_numbers_that_are_not_finite_reach_the_loss(bad, dtype):
    for name in ('norm', 'embed_tokens', 'layers.0.self_attn.q_proj', 'layers.1.self_attn.v_proj',
                 'layers.0.mlp.gate_proj', 'layers.1.mlp.down_proj',
                 'layers.0.self_attn.k_norm', 'layers.1.input_layernorm'):
        model = strong()
        with torch.no_grad(): model.get_parameter(f'{name}.weight')[:] = bad
        assert not torch.tensor(Backprop(model, 3, dtype).loss(*batch())).isfinite(), name


def test_nothing_is_left_behind():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = GPT(SHAPE)
    torch.set_rng_state(before)
    gradients(model, batch_size=3).backward(*batch())
    Autograd(model).backward(*batch(), (1,))
    assert torch.equal(torch.get_rng_state(), before)
    model.layers[0].eval()
    modes = [m.training for m in model.modules()]
    for way in (gradients(model, batch_size=3), Autograd(model)): way.loss(*batch())
    assert [m.training for m in model.modules()] == modes
    with pytest.raises(RuntimeError), reading(model): raise RuntimeError
    assert [m.training for m in model.modules()] == modes


@pytest.mark.parametrize('n', [1, 2, 3])
def test_no_call_changes_the_number_of_threads(n):
    model, (ids, targets) = GPT(DRY), batch()
    two, flat = Device(threads=2), ids.flatten().numpy()
    def ours(): return gradients(model, two, 3)
    calls = dict(make=lambda: Backprop(model, 3, threads=2), gradients=ours, machine=this_machine,
                 loss=lambda: ours().loss(ids, targets), backward=lambda: ours().backward(ids, targets),
                 refused=lambda: ours().loss(ids+60, targets),
                 autograd=lambda: Autograd(model, two).backward(ids, targets),
                 memory=lambda: memory_needed(model.cfg, 4, two),
                 evaluate=lambda: evaluate(model, flat, 100),
                 evaluate_by=lambda: evaluate(gradients(model, two), flat, 100),
                 step=lambda: train_step(ours(), make_optimizers(model, two), [(ids, targets)]),
                 rate=lambda: step_rate(DRY, 2, .01, two))
    with torch_threads(n):
        for name, call in calls.items():
            try: call()
            except ValueError: pass
            assert torch.get_num_threads() == n, name
        assert this_machine().threads == n
    with pytest.raises(ZeroDivisionError), torch_threads(n): 1/0


def test_memory_is_a_question():
    sizes = [memory_needed(DRY, n, Device(threads=2)) for n in (1, 2, 8)]
    assert sizes == sorted(set(sizes))
    way = Backprop(GPT(DRY), 8, threads=2)
    held = [way.matrices, *(o for w in way.workers for o in (w.a, w.tmp, w.dw))]
    own = sum(t.nbytes for o in held for t in vars(o).values()) + sum(w.dtable.nbytes for w in way.workers)
    assert own == sum(o.nbytes for o in backprop_rooms(DRY, 8, threads=2))
    assert 0 < memory_here() <= float('inf')


def test_threads_that_began_elsewhere_compute_the_same():
    model, (ids, targets) = strong(), batch()
    losses = {Backprop(model, 3, threads=n).loss(ids, targets) for n in (1, 2, 3)}
    assert max(losses) - min(losses) < 1e-5


def test_a_model_of_another_kind_is_seen_as_one():
    assert kind(GPT(DRY)) == kind(GPT(DRY)) != kind(GPT(SHAPE))
    assert kind(copy.deepcopy(GPT(DRY))) == kind(GPT(DRY))


def test_seeds_leave_no_trace():
    torch.manual_seed(3)
    want = torch.rand(3)
    torch.manual_seed(3)
    with seeded(1, 2): a = torch.rand(3)
    assert torch.equal(torch.rand(3), want)
    with seeded(1, 2): assert torch.equal(torch.rand(3), a)
