"""What a start from given weights brings on a new text, at which learning rate, and what it costs on the old one:
`python benchmarks/finetuning.py --corpus FILE`, some minutes on one core. The model of the book goes on with the end of
the new text at several shares of the usual learning rates, and random weights learn it beside."""
import argparse
import dataclasses
from pathlib import Path

import torch

from mini_llm.engine.device import Device
from mini_llm.engine.muon import ADAM_LEARNING_RATE, LEARNING_RATE
from mini_llm.gpt import GPT
from mini_llm.train import evaluate, get_batch, gradients, lr_scale, make_optimizers, train_step
from mini_llm.workshop.plan import decay_for, dropout_for
from mini_llm.workshop.run import shipped_run

ROOT = Path(__file__).resolve().parents[1]
RUN = shipped_run()
TOKENIZER, START = RUN.tokenizer, GPT.load(RUN.path)
BATCH, CONTEXT = 8, START.cfg.context_length


def held_out(text):
    "Ids to train on, ids to validate with, and the bytes these stand for"
    n = int(.9*len(text))
    return TOKENIZER.encode(text[:n]), TOKENIZER.encode(text[n:]), len(text[n:].encode())


def trial(new, old, steps, share, start):
    "Bits per byte on both texts, and the loss of the first step"
    epochs = steps*BATCH*CONTEXT / len(new[0])
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(START.cfg, dropout=dropout_for(epochs)))
    if start: model.load_state_dict(START.state_dict())
    device = Device(threads=1)
    grads = gradients(model, device, BATCH)
    optimizers = make_optimizers(model, device, share*LEARNING_RATE, share*ADAM_LEARNING_RATE, decay_for(epochs))
    before = [evaluate(grads, *o[1:]) for o in (new, old)]
    rows = [train_step(grads, optimizers, [get_batch(new[0], i, BATCH, CONTEXT)], lr_scale(i, steps),
                       dropout_key=(0, 1, i)) for i in range(steps)]
    after = [evaluate(grads, *o[1:]) for o in (new, old)]
    say = lambda name, i: f'{name} text {before[i]:.2f} -> {after[i]:.2f}'
    print(f"{'start ' if start else 'random'} {share:4} of the rates: first loss {rows[0]['loss']:.2f}, "
          f"{say('new', 0)}, {say('old', 1)}", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--corpus', type=Path, required=True, help='the new text')
    ap.add_argument('--characters', type=int, default=150_000, help='how many of its end are used (default: 150,000)')
    ap.add_argument('--steps', type=int, default=400, help='of each trial (default: 400)')
    args = ap.parse_args()
    new = held_out(args.corpus.read_text('utf-8')[-args.characters:])
    old = held_out((ROOT/'datasets'/'cervantes.txt').read_text('utf-8'))
    for share in (1, .3, .1, .03, .01): trial(new, old, args.steps, share, True)
    for share in (1, .3): trial(new, old, args.steps, share, False)


if __name__ == '__main__': main()
