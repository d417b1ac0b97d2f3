"""Writing beside transformers and llama.cpp: `python benchmarks/generation.py [RUN]`. One shape, 6 layers of 384 with
4,096 tokens; the same random weights for all; sampling with top-k 50 included. What rounding costs is measured on a
trained run and the corpus it names. llama.cpp takes part if llama-cpp-python and gguf are installed:
`pip install llama-cpp-python==0.3.36 gguf`"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ['HF_HUB_OFFLINE'] = '1'
import numpy as np
import torch
from common import race, report, row
from transformers import Qwen3ForCausalLM

from mini_llm.engine.decoding import Decoder
from mini_llm.engine.layout import load_model
from mini_llm.generate import Sampling, generate_batch, generate_ids
from mini_llm.gpt import GPT, GPTConfig
from mini_llm.workshop.run import Run, bits_per_byte, newest_run

try: import gguf, llama_cpp
except ImportError: gguf = llama_cpp = None

NEW, PROMPT, STREAMS = 250, [1, 2, 3], 16
SAMPLING, GREEDY = Sampling(temperature=.8, top_k=50, top_p=1.), Sampling(temperature=0)
ROOT = Path(__file__).resolve().parents[1]


def write_gguf(folder, cfg, kind):
    "The model in llama.cpp's format, without a tokenizer"
    path, q = f'{folder}/model.{kind}.gguf', gguf.GGMLQuantizationType[kind]
    w = gguf.GGUFWriter(path, 'qwen3')
    w.add_context_length(cfg.context_length)
    w.add_embedding_length(cfg.n_embd)
    w.add_block_count(cfg.n_layer)
    w.add_feed_forward_length(cfg.n_ff)
    w.add_head_count(cfg.n_head)
    w.add_head_count_kv(cfg.n_kv_head)
    w.add_key_length(cfg.head_dim)
    w.add_value_length(cfg.head_dim)
    w.add_layer_norm_rms_eps(cfg.norm_eps)
    w.add_rope_freq_base(cfg.rope_theta)
    w.add_vocab_size(cfg.vocab_size)
    w.add_tokenizer_model('none')
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, cfg.n_layer)
    for name, x in load_model(folder)[1].items():
        name = names.get_name(f"model.{name}", try_suffixes=('.weight',))
        if x.ndim == 1: w.add_tensor(name, x)
        else: w.add_tensor(name, gguf.quants.quantize(x, q), raw_dtype=q)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def llama_ids(llama, greedy=False):
    "New ids from llama.cpp, with its own sampler"
    llama.reset()
    settings = dict(top_k=1, temp=0.) if greedy else dict(top_k=50, temp=.8)
    new = llama.generate(PROMPT, top_p=1., min_p=0., repeat_penalty=1., **settings)
    return [int(i) for i, _ in zip(new, range(NEW))]


def hf_ids(model, n=1, **settings):
    "New ids from transformers"
    ids = torch.tensor([PROMPT]*n)
    ids = model.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=0, **settings)
    return ids[:, len(PROMPT):].tolist()


def one_stream(decoders, theirs, llamas):
    "Text beside transformers (its faster precision) and llama.cpp (at equal precision)"
    def ours(d): return list(generate_ids(d, PROMPT, NEW, seed=0, sampling=SAMPLING))
    runs = {name: partial(ours, d) for name, d in decoders.items()}
    sample = dict(do_sample=True, top_k=50, temperature=.8)
    runs |= {f'hf {name}': partial(hf_ids, m, **sample) for name, m in theirs.items()}
    runs |= {f'llama {kind}': partial(llama_ids, o) for kind, o in llamas.items()}
    t = race(runs, repeats=3)
    hf = min((o for o in runs if o.startswith('hf')), key=t.get)
    for name in decoders:
        yield row(f'one stream, {name}', 'tokens/s', NEW/t[name], f'transformers, {hf[3:]}', NEW/t[hf])
    for name, kinds in dict(float32=['F32'], bfloat16=['F16', 'BF16'], int8=['Q8_0']).items():
        if llamas:
            best = min(kinds, key=lambda o: t[f'llama {o}'])
            theirs_rate = NEW/t[f'llama {best}']
            yield row(f'one stream, {name}', 'tokens/s', NEW/t[name], f'llama.cpp, {best}', theirs_rate)


def many_streams(decoders, theirs):
    prompts = [PROMPT]*STREAMS
    def ours(d): return generate_batch(d, prompts, NEW, seeds=range(STREAMS), sampling=SAMPLING)
    runs = {name: partial(ours, d) for name, d in decoders.items()}
    sample = dict(do_sample=True, top_k=50, temperature=.8)
    runs |= {f'hf {name}': partial(hf_ids, m, STREAMS, **sample) for name, m in theirs.items()}
    t = race(runs, repeats=2)
    hf = min((o for o in runs if o.startswith('hf')), key=t.get)
    n = STREAMS*NEW
    for name in decoders:
        yield row(f'{STREAMS} streams, {name}', 'tokens/s', n/t[name], f'transformers, {hf[3:]}', n/t[hf])


def beside_a_busy_program(decoders):
    "One stream while another process keeps a core busy, as a share of its speed without"
    def tokens_per_second(decoder):
        t = time.perf_counter()
        for _ in range(3): list(generate_ids(decoder, PROMPT, NEW, seed=0, sampling=SAMPLING))
        return 3*NEW / (time.perf_counter() - t)
    for name, decoder in decoders.items():
        quiet = tokens_per_second(decoder)
        other = subprocess.Popen([sys.executable, '-c', 'while True: pass'])
        try: busy = tokens_per_second(decoder)
        finally:
            other.kill()
            other.wait()
        yield row(f'beside a busy program, {name}', 'tokens/s', busy, 'with the machine to itself', quiet)


def prefill(decoders, model):
    ids = list(range(model.cfg.context_length))
    x = torch.tensor([ids])
    runs = {name: lambda d=d: d(ids, d.new_cache()) for name, d in decoders.items()}
    runs['torch'] = torch.no_grad()(lambda: model(x))
    t = race(runs)
    for name in decoders:
        yield row(f'prefill, {name}', 'tokens/s', len(ids)/t[name], 'forward pass, float32', len(ids)/t['torch'])


def first_token(folder):
    "Seconds from the shell to the first character, with warm caches, beside a Python that only imports torch"
    command = [sys.executable, ROOT/'generate.py', '', '--run', folder, '--max_new_tokens', '20']
    def ours():
        p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        p.stdout.read(1)
        p.stdout.close()
        p.wait()
    t = race({'ours': ours, 'torch': lambda: subprocess.run([sys.executable, '-c', 'import torch'])}, repeats=5)
    yield dict(row('shell to first token', '1/s', 1/t['ours'], 'import torch alone', 1/t['torch']), seconds=t['ours'])


def rounding(run):
    "Bits per byte that short weights cost on the validation part"
    from mini_llm.workshop.dataset import load_tokens
    data = load_tokens(run.settings['train']['data'])
    ids, size = np.asarray(data.val, np.int64), data.meta['val']['bytes']
    bits = {}
    for precision in ('float32', 'bfloat16', 'int8'):
        d, nats = Decoder(run.path, precision), 0.
        n = d.cfg.context_length
        for i in range(0, len(ids)-1, n):
            x, y = ids[i:i+n], ids[i+1:i+n+1]
            logits = d.feed([x], d.new_cache(), every=True)[:len(y)].astype(np.float64)
            top = logits.max(-1)
            nats += (np.log(np.exp(logits - top[:, None]).sum(-1)) + top - logits[np.arange(len(y)), y]).sum()
        bits[precision] = bits_per_byte(float(nats), size)
    return dict(bits=bits, lost={k: v - bits['float32'] for k, v in bits.items()})


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('run', nargs='?', help='A trained run, for what rounding costs (default: the newest in runs)')
    args = p.parse_args()
    torch.manual_seed(0)
    cfg = GPTConfig(vocab_size=4096, n_layer=6, n_head=6, n_embd=384, context_length=256)
    model = GPT(cfg).eval()
    with torch.no_grad():       # random, but with opinions
        for p in model.parameters():
            if p.ndim == 2: p.normal_(std=p.shape[1]**-.5)
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        formats = dict(float32=torch.float32, bfloat16=torch.bfloat16)
        theirs = {k: Qwen3ForCausalLM.from_pretrained(folder, dtype=d).eval() for k, d in formats.items()}
        decoders = {p: Decoder(folder, p) for p in ('float32', 'bfloat16', 'int8')}
        llamas = {}
        if llama_cpp:
            settings = dict(n_ctx=cfg.context_length, n_threads=torch.get_num_threads(), verbose=False)
            kinds = 'F32', 'F16', 'BF16', 'Q8_0'
            llamas = {k: llama_cpp.Llama(write_gguf(folder, cfg, k), **settings) for k in kinds}
        else: print('left out: llama.cpp')
        greedy = hf_ids(theirs['float32'], do_sample=False)[0]
        assert list(generate_ids(model, PROMPT, NEW, sampling=GREEDY)) == greedy
        assert list(generate_ids(decoders['float32'], PROMPT, NEW, sampling=GREEDY)) == greedy
        assert generate_batch(decoders['float32'], [PROMPT]*STREAMS, NEW, sampling=GREEDY) == [greedy]*STREAMS
        if llamas: assert llama_ids(llamas['F32'], greedy=True) == greedy
        rows = [*one_stream(decoders, theirs, llamas), *prefill(decoders, model), *many_streams(decoders, theirs),
                *beside_a_busy_program(decoders)]
    try: run = Run(args.run) if args.run else newest_run(weights=True)
    except ValueError as e: facts = print(f'left out: first token and rounding ({e})') or {}
    else:
        rows += first_token(run.path)
        facts = dict(rounding=rounding(run))
        print('bits per byte lost:', facts['rounding']['lost'])
    report('generation', rows, ['torch', 'numba', 'transformers', *['llama-cpp-python']*bool(llama_cpp)],
           machine=dict(threads=torch.get_num_threads()), **facts)


if __name__ == '__main__': main()
