"""Whole training steps beside transformers' GPT-2: `python benchmarks/training.py`. Same shape, same batch, each with its own optimizer;
ours in the number format that is faster on this CPU, theirs in float32"""
import statistics
import time

import torch
from common import report, row
from transformers import GPT2Config, GPT2LMHeadModel

from mini_llm.gpt import GPTConfig
from mini_llm.train import step_rate, this_machine

SHAPES = {'4 layers of 256, context 128': dict(n_layer=4, n_head=4, n_embd=256, context_length=128, vocab_size=1024),
          '6 layers of 384, context 256': dict(n_layer=6, n_head=6, n_embd=384, context_length=256, vocab_size=4096)}
BATCH = 16


def gpt2_rate(shape, seconds=10):
    "Tokens per second of GPT-2 in float32 with fused AdamW and `scaled_dot_product_attention`"
    cfg = GPT2Config(vocab_size=shape['vocab_size'], n_positions=shape['context_length'], n_embd=shape['n_embd'], n_layer=shape['n_layer'],
                     n_head=shape['n_head'], resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, attn_implementation='sdpa', use_cache=False)
    model, times = GPT2LMHeadModel(cfg).train(), []
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids = torch.randint(shape['vocab_size'], (BATCH, shape['context_length']))
    while len(times) < 5 or sum(times) < seconds:
        start = time.perf_counter()
        model(ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        opt.step()
        opt.zero_grad()
        times.append(time.perf_counter() - start)
    return BATCH * shape['context_length'] / statistics.median(times[2:])


rows = []
for name, shape in SHAPES.items():
    pairs = [(step_rate(GPTConfig(**shape), BATCH, seconds=10), gpt2_rate(shape)) for _ in range(3)]   # in turn
    rows.append(row(name, 'tokens/s', statistics.median(a for a, _ in pairs), 'transformers in float32', statistics.median(b for _, b in pairs)))
report('training', rows, ['torch', 'transformers'], machine=vars(this_machine()), batch_size=BATCH)
