"""Training beside transformers' GPT-2: `python benchmarks/training.py [--corpus FILE] [--part speed|quality]`. *Speed*
is of whole steps, each model with its own optimizer, ours in the number format that is faster on this CPU, theirs in
float32. The ratio to theirs depends on how much faster that format is, so the share of what this machine can multiply
stands beside it. *Quality* trains both on the corpus, the last tenth held out: theirs for 600 seconds, ours for less
and for as long; about half an hour. Bits per byte at the last step; bar and aim are the project's goals on 3.2 MB of
Cervantes and 2 cores"""
import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import report, row
from transformers import GPT2Config, GPT2LMHeadModel

from mini_llm.bpe import END_OF_TEXT, Tokenizer
from mini_llm.engine.device import this_machine, torch_threads
from mini_llm.engine.gradients import Autograd, gradients
from mini_llm.engine.muon import make_optimizers
from mini_llm.gpt import GPT, GPTConfig
from mini_llm.train import TrainConfig, get_batch, step_rate, train
from mini_llm.workshop.corpus import read_text
from mini_llm.workshop.dataset import encode_corpus, load_tokens
from mini_llm.workshop.run import bits_per_byte

ROOT = Path(__file__).resolve().parents[1]
MINI = dict(n_layer=4, n_head=4, n_embd=256, context_length=128, vocab_size=1024)
SMALL = dict(n_layer=6, n_head=6, n_embd=384, context_length=256, vocab_size=4096)
BATCH = 16


def gpt2(shape):
    "GPT-2 of a shape with `scaled_dot_product_attention`, in float32"
    cfg = GPT2Config(vocab_size=shape['vocab_size'], n_positions=shape['context_length'], n_embd=shape['n_embd'],
                     n_layer=shape['n_layer'], n_head=shape['n_head'], resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
                     attn_implementation='sdpa', use_cache=False)
    return GPT2LMHeadModel(cfg).train()


def gpt2_optimizer(model):
    "Fused AdamW; only matrices decay"
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [dict(params=matrices, weight_decay=.1), dict(params=rest, weight_decay=0)]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(.9, .99), fused=True)


def gpt2_step(model, opt, x, y):
    torch.nn.functional.cross_entropy(model(x).logits.flatten(0, 1), y.flatten()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
    opt.step()
    opt.zero_grad()


def seconds(f, least=5, total=8.):
    "Median seconds of a call, after two to warm up"
    times = []
    while len(times) < least + 2 or sum(times) < total:
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def random_batch(shape):
    ids = torch.randint(shape['vocab_size'], (BATCH, shape['context_length'] + 1))
    return ids[:, :-1], ids[:, 1:]


def gpt2_rate(shape):
    "Tokens per second of whole steps"
    model, (x, y) = gpt2(shape), random_batch(shape)
    opt = gpt2_optimizer(model)
    return x.numel() / seconds(lambda: gpt2_step(model, opt, x, y))


def products_rate(dtype):
    "Additions and multiplications per second in a product of two matrices, on all cores"
    a, b = torch.ones(4096, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
    return 2*a.numel()*b.shape[1] / seconds(lambda: a @ b, 50, 1.)


def work_of(shape):
    "Additions and multiplications for a token, forward and backward"
    with torch.device('meta'): n = sum(p.numel() for p in GPT(GPTConfig(**shape)).parameters())
    return 6*n + 6*shape['n_layer']*shape['n_embd']*shape['context_length']


def passes(shape, engine):
    "Forward and backward by an engine: a function to be timed, and the model"
    model, (x, y) = GPT(GPTConfig(**shape)), random_batch(shape)
    grads = engine(model, this_machine(), BATCH)
    def run():
        model.zero_grad()
        grads.backward(x, y)
    return run, model


def shares(shape):
    "Share of the rate of products in forward and backward, the optimizers' share of a step, and the rate itself"
    machine = this_machine()
    backward, model = passes(shape, gradients)
    backward()                      # the optimizers need gradients
    optimizers = make_optimizers(model, machine)

    def step():
        with torch_threads(1):      # as in training: Muon has threads of its own
            for o in optimizers.values(): o.step()
    def once(): return products_rate(getattr(torch, machine.dtype)), seconds(backward), seconds(step)
    rate, back, steps = map(statistics.median, zip(*(once() for _ in range(3))))
    return work_of(shape)*BATCH*shape['context_length']/back/rate, steps/(back + steps), rate


def against_autograd(shape):
    "Tokens per second of forward and backward in the faster number format: by the package's kernels and by autograd"
    ways = [passes(shape, engine)[0] for engine in (gradients, Autograd)]
    times = zip(*(map(seconds, ways) for _ in range(3)))
    return [BATCH*shape['context_length'] / statistics.median(o) for o in times]


def memory(who):
    "Largest RSS of some steps, above the one after imports, in bytes"
    x, y = random_batch(SMALL)
    if who == 'gpt2':
        model = gpt2(SMALL)
        opt = gpt2_optimizer(model)
        step = lambda: gpt2_step(model, opt, x, y)
    else: step = lambda: step_rate(GPTConfig(**SMALL), BATCH, seconds=1)
    def peak(): return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) * 1024     # Linux
    before = peak()
    for _ in range(5): step()
    return peak() - before


def memory_of(who):
    run = subprocess.run([sys.executable, __file__, '--memory', who], capture_output=True, text=True, check=True)
    return int(run.stdout.split()[-1])


def speed(facts):
    share, optimizers, rate = shares(SMALL)
    facts['products'] = rate        # of this machine, a second
    for name, shape in {'4 layers of 256, context 128': MINI, '6 layers of 384, context 256': SMALL}.items():
        pairs = [(step_rate(GPTConfig(**shape), BATCH, seconds=8), gpt2_rate(shape)) for _ in range(3)]   # in turn
        goals = dict(bar=3, aim=4.2) if shape is SMALL else {}
        ours, theirs = (statistics.median(o) for o in zip(*pairs))
        yield row(f'steps, {name}', 'tokens/s', ours, 'transformers in float32', theirs, **goals)
        yield row('the same as a share of the rate of products', '%', 100*ours*work_of(shape)/rate)
    kernels, autograd = against_autograd(SMALL)
    yield row('forward and backward, the latter shape', 'tokens/s', kernels, 'autograd', autograd)
    yield row('share of the rate of products in forward and backward', '%', 100*share, bar=50, aim=70)
    yield row("the optimizers' share of a step", '%', 100*optimizers, bar=20, aim=8)
    yield row('peak memory, of that of transformers', 'x', memory_of('ours') / memory_of('gpt2'), bar=1, aim=.6)


def prepare(folder, corpus, vocab_size):
    "Token files of a corpus, with a tokenizer of its training part"
    text, name = read_text(corpus), f'corpus{vocab_size}'
    Tokenizer.train(text[:int(.9*len(text))], vocab_size, special_tokens=[END_OF_TEXT]).save(f'{folder}/{name}.model')
    return encode_corpus(f'{folder}/{name}.model', [text], f'{folder}/{name}')


@torch.no_grad()
def gpt2_bits(model, data):
    ids, nats, n = torch.from_numpy(np.asarray(data.val).astype(np.int64)), 0., MINI['context_length']
    for i in range(0, len(ids)-1, n):
        x, y = ids[i:i+n], ids[i+1:i+n+1]
        logits = model(x[None, :len(y)]).logits[0]
        nats += torch.nn.functional.cross_entropy(logits, y, reduction='sum').item()
    return bits_per_byte(nats, data.meta['val']['bytes'])


def gpt2_quality(data, limit):
    "Bits per byte of GPT-2 after so many seconds: warm-up of 100 steps, then cosine to a tenth"
    shape = dict(MINI, vocab_size=data.meta['n_vocab'])
    model = gpt2(shape)
    opt = gpt2_optimizer(model)
    def batch(i): return get_batch(data.train, i, BATCH, shape['context_length'])
    fresh = gpt2(shape)
    fresh_opt = gpt2_optimizer(fresh)
    steps = int(limit / seconds(lambda: gpt2_step(fresh, fresh_opt, *batch(0)), 20))
    start = time.perf_counter()
    for i in range(steps):
        done = max(0, i-100) / max(1, steps-100)
        rate = 1e-3 * min(1, (i+1)/100) * (.1 + .9*(1 + math.cos(math.pi*done))/2)
        for group in opt.param_groups: group['lr'] = rate
        gpt2_step(model, opt, *batch(i))
        if time.perf_counter() - start > 1.02*limit: break
    took = time.perf_counter() - start
    print(f'transformers: {i+1} steps in {took:.0f} s', flush=True)
    return gpt2_bits(model.eval(), data)


def ours(data, folder, limit, seed):
    "Seconds from the call of `train` and bits per byte at each evaluation of a run planned for `limit` seconds"
    start = time.time()
    run = train(TrainConfig(data=str(data.path), minutes=limit/60, seed=seed, runs=f'{folder}/runs'), progress=False)
    lost = time.time() - start - run.result['seconds']      # what the run's own clock does not see
    evals = [(m['seconds'] + lost, m['val_bits']) for m in run.metrics if 'val_bits' in m]
    took, bits = evals[-1]
    print(f'ours: {limit:.0f} s, seed {seed}: {bits:.3f} bits per byte after {took:.0f} s', flush=True)
    return run, evals


def time_to(target, data, folder, limits=(20, 25, 30, 35, 40, 50, 75, 100, 150)):
    "Median over three seeds of the seconds to bits per byte, by the shortest of these plans that all reach it with"
    for limit in limits:
        reached = []
        for seed in range(3):
            at = [t for t, bits in ours(data, folder, limit, seed)[1] if bits <= target]
            if not at: break
            reached.append(at[0])
        else: return statistics.median(reached)
    return math.inf


def quality(corpus, folder):
    theirs = gpt2_quality(load_tokens(prepare(folder, corpus, 1024)), 600)
    yield row('bits per byte of transformers after 600 s', 'bits', theirs)
    data = load_tokens(prepare(folder, corpus, 2048))
    seconds_to = time_to(theirs, data, folder)
    yield dict(row('seconds to the same', 's', seconds_to, bar=100, aim=50), peer_seconds=600)
    gained = theirs - ours(data, folder, 600, 0)[1][-1][1]
    yield row('bits per byte after 600 s, below those', 'bits', gained, bar=.15, aim=.3)
    excerpt = load_tokens(prepare(folder, ROOT/'datasets'/'cervantes.txt', 1024))
    bits = statistics.median(ours(excerpt, folder, 60, s)[1][-1][1] for s in range(3))
    yield row('the shipped excerpt, 60 s', 'bits', bits, bar=1.92, aim=1.80)
    run, _ = ours(data, folder, 180, 0)
    rows = run.metrics
    pauses = [b['seconds'] - a['seconds'] for a, b in zip(rows, rows[1:])]
    trained = run.result['seconds'] - run.settings['plan']['seconds']
    rest = 100 * (1 - len(rows)*statistics.median(pauses)/trained)
    yield row('evaluation and checkpoints, share of three minutes', '%', rest, bar=10, aim=4)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--corpus', default=str(ROOT/'datasets'/'cervantes.txt'),
                   help='Text to train on, for quality (default: the shipped excerpt)')
    p.add_argument('--part', choices=['speed', 'quality'], default='speed', help='What to measure')
    p.add_argument('--memory', choices=['ours', 'gpt2'], help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.memory: return print(memory(args.memory))
    torch.manual_seed(0)
    facts = dict(machine=vars(this_machine()))
    if args.part == 'speed':
        facts['batch_size'] = BATCH
        rows = list(speed(facts))
    else:
        with tempfile.TemporaryDirectory() as folder: rows = list(quality(args.corpus, folder))
    report('training' if args.part == 'speed' else 'quality', rows, ['torch', 'transformers'], **facts)


if __name__ == '__main__': main()
