"""What each part of the model is worth: `python benchmarks/ablation.py --seconds 60 --seeds 3`. One part at a time is
exchanged for another.

Equal wall time: a variant trains for so many seconds, with as many steps as fit, and the learning rate follows the
clock (warm-up, plateau, fall to zero), so that every run ends with it fully decayed, whatever its pace. Tokenizing and
the evaluation at the end are not counted. All run by autograd and in the same number format, for the package's own
gradients know one model only. Every variant has its learning rate doubled or halved as long as that helps, on a seed
that is not reported; AdamW its weight decay as well, since dropout and decay were once chosen with Muon. Seeds take
turns, so that a busy machine troubles all alike. Expect 40 to 60 runs."""
import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import report, row
from torch import nn

from mini_llm.attention import Attention
from mini_llm.bpe import END_OF_TEXT, Tokenizer
from mini_llm.workshop.corpus import read_text
from mini_llm.workshop.dataset import split_texts, token_stream
from mini_llm.gpt import GPT, GPTConfig
from mini_llm.train import Autograd, Diverged, Muon, SIZES, evaluate, get_batch, this_machine, train_step

BATCH, WARMUP, COOLDOWN = 16, 20, 0.4
DROPOUT = 0.1                       # for all: in so short a time the text is read a few times only
TUNING_SEED, HELPS = 1_000, 0.003   # bits per byte; less is noise


# --- the alternatives

class Unturned(Attention):
    "Attention without rotary positions"
    def project(self, x, cos, sin, start=0):
        parts = (proj(x) for proj in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (o.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for o in parts)
        return self.q_norm(q), self.k_norm(k), v


class LearnedPositions(GPT):
    "A vector for each position, added once, as in GPT-2"
    def __init__(self, cfg):
        super().__init__(cfg)
        self.positions = nn.Embedding(cfg.context_length, cfg.n_embd)
        for layer in self.layers:
            layer.self_attn = Unturned(cfg.n_embd, cfg.n_head, cfg.n_kv_head, cfg.head_dim, cfg.norm_eps)
        self.init_weights()
        nn.init.normal_(self.positions.weight, std=1/cfg.n_embd)

    def hidden_states(self, ids, cache=None):
        x = self.dropout(self.embed_tokens(ids) + self.positions.weight[:ids.shape[1]])
        for layer in self.layers: x = layer(x, None, None)
        return self.norm(x)


class GeluMLP(nn.Module):
    "Widen fourfold, bend, narrow: about as many weights as SwiGLU with 8/3"
    def __init__(self, n_embd):
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(n_embd, 4*n_embd, bias=False), nn.Linear(4*n_embd, n_embd, bias=False)

    def forward(self, x): return self.down_proj(F.gelu(self.up_proj(x)))


class LayerNormGelu(GPT):
    "LayerNorm with bias and a GELU network, as in GPT-2; queries and keys keep their norm"
    def __init__(self, cfg):
        super().__init__(cfg)
        def norm(): return nn.LayerNorm(cfg.n_embd, eps=1e-5)
        for layer in self.layers:
            layer.input_layernorm, layer.post_attention_layernorm, layer.mlp = norm(), norm(), GeluMLP(cfg.n_embd)
        self.norm = norm()
        self.init_weights()
        for name, p in self.named_parameters():
            if name.endswith('bias'): nn.init.zeros_(p)


@dataclass(frozen=True)
class Variant:
    "One way to make and train a model; what is not named is as in the default"
    name: str
    model: Callable = GPT
    vocab_size: int = 1024
    optimizer: str = 'muon'
    learning_rate: float = 0.014   # of the matrices
    weight_decay: float = 0.5     # of the matrices, as a share of the learning rate
    tuned: tuple = ('learning_rate',)


# Both optimizers start with the same shrinkage of the weights a step, learning_rate * weight_decay
VARIANTS = [Variant('Muon, rotary, RMSNorm + SwiGLU, 1,024 tokens'),
            Variant('AdamW', optimizer='adamw', learning_rate=0.002, weight_decay=1.75,
                    tuned=('learning_rate', 'weight_decay')),
            Variant('learned positions', LearnedPositions),
            Variant('LayerNorm + GELU', LayerNormGelu),
            *(Variant(f'{n:,} tokens', vocab_size=n) for n in (512, 2048, 4096))]


# --- training by the clock

def optimizers(model, variant, machine):
    "Muon or AdamW for the matrices of the blocks, AdamW for the rest, as `make_optimizers` does"
    inside = [p for p in model.layers.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if all(p is not q for q in inside)]
    how, adamw = dict(lr=variant.learning_rate, weight_decay=variant.weight_decay), dict(betas=(0.9, 0.95), fused=True)
    res = dict(matrices=Muon(inside, dtype=getattr(torch, machine.dtype), **how) if variant.optimizer == 'muon' else
                        torch.optim.AdamW(inside, **how, **adamw),
               rest=torch.optim.AdamW(rest, 0.003, weight_decay=0, **adamw))
    for o in res.values():
        for group in o.param_groups: group['base_lr'] = group['lr']
    return res


def lr_scale(step, elapsed):
    "Warm-up by steps, plateau, then down to zero with the clock; `elapsed` is the share of the time that is over"
    return min(1, (step+1) / (WARMUP+1), (1-elapsed) / COOLDOWN)


def run(variant, data, seconds, machine, seed):
    "Train for `seconds`; bits per byte on the validation text, and the number of steps"
    train, val, n_bytes, shape = data
    torch.manual_seed(seed)
    model = variant.model(shape).to(machine.device)
    grads, opts, step = Autograd(model, machine, BATCH), optimizers(model, variant, machine), 0
    grads.backward(*get_batch(train, 0, BATCH, shape.context_length, seed))   # prepares kernels, and is not timed
    model.zero_grad()
    start = time.monotonic()
    while (elapsed := (time.monotonic() - start) / seconds) < 1:
        batch = get_batch(train, step, BATCH, shape.context_length, seed)
        train_step(grads, opts, [batch], lr_scale(step, elapsed), key=(seed, step))
        step += 1
    bits = evaluate(grads, val, n_bytes)
    print(f'{variant.name}: {bits:.3f} bits per byte after {step} steps, seed {seed}, '
          f'learning rate {variant.learning_rate:g}, weight decay {variant.weight_decay:g}', flush=True)
    return bits, step


def tune(variant, trial):
    "Double or halve each tuned setting while that helps; `trial` gives bits per byte and steps"
    def score(other):
        try: return trial(other, TUNING_SEED)[0]
        except Diverged: return math.inf
    best = score(variant)
    for name in variant.tuned:
        for factor in (2, 1/2):
            before = variant
            while (bits := score(other := replace(variant, **{name: factor * getattr(variant, name)}))) < best - HELPS:
                variant, best = other, bits
            if variant is not before: break   # up helped, so down cannot
    return variant


# --- from the text to the report

def prepare(text, vocab_size):
    "Ids to train on, ids and bytes to validate with, the network's shape; the tokenizer knows the training part only"
    train, val = split_texts([text])
    tok = Tokenizer.train(train, vocab_size, special_tokens=[END_OF_TEXT])
    def ids_of(part, ended): return np.concatenate([o for o, _ in token_stream(tok, part, ended)])
    ids = [ids_of(train, False), ids_of(val, True)]
    return *ids, len(val[0].encode()), GPTConfig(tok.n_vocab, **SIZES['mini'], dropout=DROPOUT)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seconds', type=float, default=60, help='of training, for each run (60)')
    p.add_argument('--seeds', type=int, default=3, help='runs of each variant after tuning (3)')
    p.add_argument('--corpus', type=Path, default=Path('datasets/cervantes.txt'),
                   help='text, of which the last tenth validates')
    p.add_argument('--threads', type=int, help="CPU threads (torch's own choice)")
    args = p.parse_args()
    text, machine = read_text(args.corpus), this_machine(args.threads)
    torch.set_num_threads(machine.threads)
    data = {n: prepare(text, n) for n in {v.vocab_size for v in VARIANTS}}
    def trial(variant, seed): return run(variant, data[variant.vocab_size], args.seconds, machine, seed)
    tuned = [tune(v, trial) for v in VARIANTS]
    runs = [[trial(v, seed) for v in tuned] for seed in range(args.seeds)]
    rows = []
    for v, results in zip(tuned, zip(*runs)):
        bits, steps = map(list, zip(*results))
        settings = dict(learning_rate=v.learning_rate, weight_decay=v.weight_decay)
        rows.append(row(v.name, 'bits per byte', statistics.mean(bits), bits=bits, steps=steps, **settings))
    report('ablation', rows, ['torch'], machine=vars(machine), corpus=args.corpus.name, characters=len(text),
           seconds=args.seconds, batch_size=BATCH, dropout=DROPOUT)


if __name__ == '__main__': main()
