"""Make a model for the shelf of a finished run: `python tools/ship.py runs/cervantes1024-1 models/quijote`

The weights are rounded to bfloat16, what is only needed to go on training stays behind, and a card says what the model
is, where it comes from, and how good it is after rounding."""
import argparse
import json
import shutil
import sys
from pathlib import Path

import safetensors.torch
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]/'benchmarks'))
from common import cpu

from mini_llm.engine.files import write_atomic
from mini_llm.gpt import GPT
from mini_llm.train import evaluate
from mini_llm.workshop.dataset import load_tokens
from mini_llm.workshop.run import Run

KEPT = 'config.json', 'tokenizer.bpe', 'train.json', 'metrics.jsonl', 'result.json'

CARD = """\
---
language: es
license: apache-2.0
pipeline_tag: text-generation
tags: [mini_llm, qwen3]
---

# {title}

A language model of {parameters:,} parameters: {layers} layers of {width}, {context} tokens of context, {n_vocab:,}
ids. It has read one text, {train_bytes:,} bytes of {corpus}, {epochs:.0f} times over, and goes on in its manner from
any beginning. It knows nothing else, and is of no use but to learn how such a model works.

| | |
|---|---|
| text | `datasets/{corpus}`, in the public domain (`datasets/README.md`) |
| made by | `{command}`: {steps:,} steps in {seconds:.0f} seconds |
| on | {cpu}, products in {dtype} |
| bits per byte | {bits:.3f} on the tenth of the text that it has not read |
| rounded | {rounded:.3f}, with the weights in bfloat16 as they are here |
| beside it | bzip2 {bzip2:.2f}, xz {xz:.2f}, counted pairs of tokens {bigram:.2f} |
| files | `model.safetensors`, `config.json` (as `Qwen3ForCausalLM`), `tokenizer.bpe` |
| of the run | `train.json`, `metrics.jsonl`, `result.json` |

```sh
python generate.py "En un lugar de la Mancha" --run {folder}
```

To make one yourself, run `{command}`. Three minutes hold another number of steps on another machine, so yours will
differ. `python train.py --reproduce {folder}` takes as many steps as this one, and on a machine with the same
arithmetic ends at the same weights, byte for byte, before they are rounded.
"""


def facts(run, out, rounded):
    "What the card says"
    settings, result, shape = run.settings, run.result, GPT.load(out).cfg
    data, reference = settings['data'], settings['data']['reference_bits']
    return dict(title=f'The model of the book: {out.name}', folder=out.as_posix(),
        parameters=result['parameters'], layers=shape.n_layer,
        width=shape.n_embd, context=shape.context_length, n_vocab=data['n_vocab'], corpus=data['corpus']['name'],
        train_bytes=data['train']['bytes'], epochs=result['tokens']/data['train']['ids'], command='make run',
        steps=result['steps'], seconds=result['seconds'], cpu=cpu(), dtype=settings['machine']['dtype'],
        bits=result['bits_per_byte'], rounded=rounded, **{k: reference[k] for k in ('bzip2', 'xz', 'bigram')})


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('run', type=Path, help='a finished run')
    p.add_argument('out', type=Path, help='the folder to make; what is in it is replaced')
    args = p.parse_args()
    run = Run(args.run)
    if not run.result: p.error(f'{run.path} is not finished')
    args.out.mkdir(parents=True, exist_ok=True)
    for name in KEPT: shutil.copyfile(run.path/name, args.out/name)
    weights = safetensors.torch.load_file(run.path/'model.safetensors')
    short = {k: v.to(torch.bfloat16) for k, v in weights.items()}
    write_atomic(args.out/'model.safetensors', safetensors.torch.save(short, metadata={'format': 'pt'}))
    data = load_tokens(run.settings['train']['data'])
    rounded = evaluate(GPT.load(args.out), data.val, data.meta['val']['bytes'])
    write_atomic(args.out/'README.md', CARD.format(**facts(run, args.out, rounded)))
    print(json.dumps({p.name: p.stat().st_size for p in sorted(args.out.iterdir())}, indent=1))


if __name__ == '__main__': main()
