"One stream of text beside transformers' `generate`: `python benchmarks/generation.py`. The same random weights, 6 layers of 384, sampling with top-k 50"
import os
import tempfile

os.environ['HF_HUB_OFFLINE'] = '1'
import torch
from common import race, report, row
from transformers import Qwen3ForCausalLM

from mini_llm.generate import generate
from mini_llm.gpt import GPT, GPTConfig

NEW, PROMPT = 200, [1, 2, 3]
torch.manual_seed(0)
ours = GPT(GPTConfig(vocab_size=4096, n_layer=6, n_head=6, n_embd=384, context_length=256)).eval()
with tempfile.TemporaryDirectory() as folder:
    ours.save(folder)
    theirs = Qwen3ForCausalLM.from_pretrained(folder).eval()
ids = torch.tensor([PROMPT])
sampled = dict(do_sample=True, top_k=50, temperature=.8, max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=0)

greedy = theirs.generate(ids, do_sample=False, max_new_tokens=NEW, pad_token_id=0)[0, len(PROMPT):].tolist()
assert generate(ours, PROMPT, NEW, temperature=0).tolist() == greedy

t = race({'ours': lambda: generate(ours, PROMPT, NEW, temperature=.8, top_k=50, top_p=1., seed=0),
          'transformers': lambda: theirs.generate(ids, **sampled)}, repeats=5)
report('generation', [row('one stream', 'tokens/s', NEW/t['ours'], 'transformers', NEW/t['transformers'])], ['torch', 'transformers'],
       machine=dict(dtype='float32', threads=torch.get_num_threads()))
