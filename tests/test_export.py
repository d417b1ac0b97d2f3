"Exports: what is written is read back by others, what does not agree leaves nothing, and nobody's files are replaced"
import json
import os
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, python

from mini_llm.bpe import END_OF_TEXT, Tokenizer
from mini_llm.engine.layout import load_model
from mini_llm.generate import generate
from mini_llm.gpt import GPT, GPTConfig
from mini_llm.workshop import export as E
from mini_llm.workshop.card import card, head, said, write_card
from mini_llm.workshop.commands import main
from mini_llm.workshop.dataset import encode_corpus
from mini_llm.workshop.run import Run

TEXT = 'En un lugar de la Mancha, de cuyo nombre no quiero acordarme, no ha mucho tiempo que vivía un hidalgo. ' * 40
SHAPE = dict(context_length=24, n_layer=2, n_head=4, n_kv_head=2, head_dim=16, n_embd=48, n_ff=80)   # 48 and 80: no 32
EVEN = dict(n_embd=64, n_ff=96, n_head=2, n_kv_head=1, head_dim=64)
gguf = pytest.importorskip('gguf', reason='gguf is not installed')


def made(folder, **shape):
    "A run of random weights with its token files: small, and unlike the defaults in every size"
    import torch
    from mini_llm.workshop.settings import TrainConfig, record
    from mini_llm.engine.device import Device
    from mini_llm.engine.files import write_atomic
    from mini_llm.workshop.dataset import load_tokens
    folder.mkdir(parents=True, exist_ok=True)
    specials = {END_OF_TEXT: 303, '<|pausa|>': 301}
    tok = Tokenizer.train(TEXT, 300, special_tokens=specials)
    tok.save(folder/'t.model')
    data = load_tokens(encode_corpus(folder/'t.model', [TEXT], folder/'datasets/t300', 'quijote.txt'))
    cfg = GPTConfig(vocab_size=tok.n_vocab, **(SHAPE | shape))
    asked = TrainConfig(data=str(data.path), steps=1, runs=str(folder/'runs'))
    run = record(asked, cfg, data, Device('cpu', 'float32', 1))
    torch.manual_seed(0)
    model = GPT(cfg)
    for p in model.parameters(): torch.nn.init.normal_(p, mean=float(p.ndim == 1), std=.3)
    model.save(run.path)
    result = dict(steps=1, seconds=1., tokens=96, bits_per_byte=3., parameters=9, best={}, step=1)
    (run.path/'metrics.jsonl').write_text('{"step": 1, "loss": 5.0, "val_bits": 3.0, "sample": "En un lugar de la"}\n')
    write_card(run, result)
    write_atomic(run.path/'result.json', json.dumps(result))
    return run


@pytest.fixture(scope='module')
def run(tmp_path_factory): return made(tmp_path_factory.mktemp('export'))


@pytest.fixture
def quiet(): return lambda line: None


def test_a_run_opens_in_transformers_as_it_is(run):
    "Without network, remote code, or any file of ours but those in its folder"
    pytest.importorskip('transformers')
    code = f'''
import sys; sys.modules['mini_llm'] = None
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, pipeline
tok = AutoTokenizer.from_pretrained({str(run.path)!r})
print(tok('un lugar<|pausa|>').input_ids, tok.eos_token, tok.model_max_length)
print(GenerationConfig.from_pretrained({str(run.path)!r}).eos_token_id)
print(AutoModelForCausalLM.from_pretrained({str(run.path)!r}).config.head_dim)
write = pipeline('text-generation', {str(run.path)!r})
print(ascii(write('un lugar', max_new_tokens=9, do_sample=False)[0]['generated_text']))'''
    ids, ends, size, text = python(code).splitlines()
    assert ids == f"{run.tokenizer.encode('un lugar<|pausa|>', 'all').tolist()} {END_OF_TEXT} 24"
    assert (json.loads(ends), size) == ([303, 301], '16')
    assert text == ascii('un lugar' + generate(run, 'un lugar', 9, temperature=0))


@pytest.mark.parametrize('precision', ['float32', 'float16', 'bfloat16'])
def test_huggingface(run, precision, tmp_path):
    lines = []
    out = E.export(run, 'huggingface', precision, tmp_path/'out', tell=lines.append)
    import torch
    from safetensors.torch import load_file
    kept, ours = load_file(out/'model.safetensors'), load_file(run.path/'model.safetensors')
    assert all(v.dtype == getattr(torch, precision) and v.equal(ours[k].to(v.dtype)) for k, v in kept.items())
    assert json.loads((out/'config.json').read_text())['dtype'] == precision
    assert sorted(o.name for o in out.iterdir()) == sorted([
        'README.md', 'config.json', 'generation_config.json', 'loss.png', 'metrics.jsonl', 'model.safetensors',
        'result.json', 'tokenizer.bpe', 'tokenizer.json', 'tokenizer_config.json', 'train.json'])
    assert Run(out).tokenizer == run.tokenizer and generate(Run(out), 'un lugar', 3, seed=1)
    said_so = '\n'.join(lines)
    assert ('bits per byte on the held-out text' in said_so) == (precision != 'float32')
    assert 'transformers: scores equal' in said_so and 'likeliest tokens, over two windows' in said_so


def test_a_run_of_before_becomes_one_of_today(run, tmp_path, quiet):
    "Its tokenizer had SentencePiece's name, and nothing stood beside it"
    old = Run(shutil.copytree(run.path, tmp_path/'old'))
    (old.path/'tokenizer.bpe').rename(old.path/'tokenizer.model')
    for name in 'tokenizer.json', 'tokenizer_config.json', 'generation_config.json', 'README.md', 'loss.png':
        (old.path/name).unlink()
    out = E.export(old, 'huggingface', out=tmp_path/'out', tell=quiet)
    assert Run(out).tokenizer == old.tokenizer and (out/'tokenizer.bpe').exists() and (out/'tokenizer.json').exists()


def facts(file): return {k: f.contents() for k, f in gguf.GGUFReader(file).fields.items()}


@pytest.mark.parametrize('precision, kind', E._KINDS.items())
def test_gguf_holds_every_tensor_and_every_fact(run, precision, kind, tmp_path, quiet):
    out = E.export(run, 'gguf', precision, tmp_path/'out', tell=quiet)
    file = out/f'{run.name}-{kind}.gguf'
    tensors, names = load_model(run.path)[1], dict(
        embed_tokens='token_embd', norm='output_norm', input_layernorm='attn_norm', post_attention_layernorm='ffn_norm',
        q_proj='attn_q', k_proj='attn_k', v_proj='attn_v', o_proj='attn_output', q_norm='attn_q_norm',
        k_norm='attn_k_norm', gate_proj='ffn_gate', up_proj='ffn_up', down_proj='ffn_down')
    found = {t.name: t for t in gguf.GGUFReader(file).tensors}
    assert len(found) == len(tensors)
    for name, x in tensors.items():
        words = name.split('.')
        t = found[f"blk.{words[1]}.{names[words[-2]]}.weight" if words[0] == 'layers' else f'{names[words[-2]]}.weight']
        y = gguf.quants.dequantize(t.data, t.tensor_type)
        rounded = kind if x.ndim == 2 and not (kind == 'Q8_0' and x.shape[1] % 32) else 'F16' if x.ndim == 2 else 'F32'
        assert (t.tensor_type.name, y.shape) == (rounded, x.shape)
        if rounded == 'F32': assert np.array_equal(x, y)
        else: assert np.abs(x - y).max() < np.abs(x).max()/120
    f = facts(file)
    assert {k: f[f'general.{k}'] for k in ('architecture', 'name', 'file_type')} == dict(
        architecture='qwen3', name=run.name, file_type=dict(F32=0, F16=1, BF16=32, Q8_0=7)[kind])
    assert [f[f'qwen3.{k}'] for k in ('context_length', 'embedding_length', 'block_count', 'feed_forward_length',
            'attention.head_count', 'attention.head_count_kv', 'attention.key_length', 'attention.value_length',
            'vocab_size')] == [24, 48, 2, 80, 4, 2, 16, 16, 304]
    assert abs(f['qwen3.rope.freq_base'] - 10000) < 1e-3
    assert abs(f['qwen3.attention.layer_norm_rms_epsilon'] - 1e-6) < 1e-12
    t = {k.removeprefix('tokenizer.ggml.'): v for k, v in f.items() if k.startswith('tokenizer.')}
    assert (t['model'], t['pre'], t['add_bos_token'], t['add_eos_token']) == ('gpt2', 'llama-bpe', False, False)
    assert t['bos_token_id'] == t['eos_token_id'] == t['padding_token_id'] == 303
    assert t['tokens'][299:] == [t['tokens'][299], '<unused 300>', '<|pausa|>', '<unused 302>', END_OF_TEXT]
    assert t['token_type'] == [1]*300 + [5, 3, 5, 3] and len(set(t['tokens'])) == 304


def test_gguf_carries_what_the_owner_wrote_into_the_card(run, tmp_path, quiet):
    mine = Run(shutil.copytree(run.path, tmp_path/'mine'))
    assert facts(E.export(mine, 'gguf', out=tmp_path/'a', tell=quiet)/'mine-F32.gguf').keys() & {
        'general.license', 'general.author', 'general.languages'} == set()
    own = (mine.path/'README.md').read_text().replace('license: unknown', 'license: mit\nauthor: "Ana"\nlanguage: es')
    (mine.path/'README.md').write_text(own)
    f = facts(E.export(mine, 'gguf', out=tmp_path/'b', tell=quiet)/'mine-F32.gguf')
    assert (f['general.license'], f['general.author'], f['general.languages']) == ('mit', 'Ana', ['es'])
    out = E.export(mine, 'huggingface', out=tmp_path/'c', tell=quiet)
    assert head(Run(out)) == head(mine) and said(Run(out), 'author') == 'Ana'


def test_tiktoken_is_loaded_by_its_three_lines(run, tmp_path, quiet):
    pytest.importorskip('tiktoken')
    out = E.export(run, 'tiktoken', out=tmp_path/'out', tell=quiet)
    theirs = runpy.run_path(str(out/'load.py'))['encoding']
    ids = run.tokenizer.encode('un lugar<|pausa|>', 'all').tolist()
    assert theirs.encode('un lugar<|pausa|>', allowed_special='all') == ids
    other = Run(shutil.copytree(run.path, tmp_path/run.name))
    Tokenizer.train('otra cosa ' * 50, 264).save(other.path/'tokenizer.bpe')
    E.export(other, 'tiktoken', out=out, force=True, tell=quiet)        # the same path, and tiktoken remembers paths
    assert runpy.run_path(str(out/'load.py'))['encoding'].n_vocab == 264


def test_minbpe_is_read_back(run, tmp_path, quiet):
    out = E.export(run, 'minbpe', out=tmp_path/'out', tell=quiet)
    assert Tokenizer.from_minbpe(out/f'{run.name}.model').special_tokens == run.tokenizer.special_tokens


@pytest.mark.parametrize('to', E.FORMATS)
def test_a_failed_proof_leaves_nothing(run, to, tmp_path, quiet, monkeypatch):
    "The proof is told other ids, and what was there before stays"
    monkeypatch.setattr(E, 'probes', lambda *_: ['un lugar'])
    monkeypatch.setattr(E, 'same_ids', lambda *_: (_ for _ in ()).throw(E.Unequal('other ids')))
    if to == 'gguf': monkeypatch.setattr(E, '_facts_back', lambda *_: (_ for _ in ()).throw(E.Unequal('other ids')))
    if to not in ('huggingface', 'gguf', 'tiktoken', 'minbpe'): pytest.skip('has tests of its own')
    out = tmp_path/'out'
    with pytest.raises(E.Unequal, match='other ids'): E.export(run, to, out=out, tell=quiet)
    assert not list(tmp_path.iterdir())
    out.mkdir()
    (out/'note').write_text('mine')
    with pytest.raises(ValueError, match='is not empty'): E.export(run, to, out=out, tell=quiet)
    with pytest.raises(E.Unequal): E.export(run, to, out=out, force=True, tell=quiet)
    assert [p.name for p in tmp_path.rglob('*')] == ['out', 'note']


def test_ctrl_c_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    def stop(*_): raise KeyboardInterrupt
    monkeypatch.setattr(E, 'same_ids', stop)
    assert main(['export', str(run.path), '--to', 'minbpe', '--out', str(tmp_path/'out')]) == 130
    assert not list(tmp_path.iterdir()) and 'stopped; no export was left' in capsys.readouterr().err


def broken(run, folder, change):
    "A copy of a GGUF file in which one tensor is another"
    reader = gguf.GGUFReader(E.export(run, 'gguf', out=folder, tell=lambda line: None)/f'{run.name}-F32.gguf', 'r+')
    tensor = next(t for t in reader.tensors if t.name == 'blk.1.attn_q.weight')
    tensor.data[:] = change(tensor.data)
    return Path(reader.data.filename)


@pytest.mark.parametrize('change', [lambda x: x[::-1].copy(), lambda x: x*1.001, lambda x: x + np.eye(*x.shape)*1e-6])
def test_one_wrong_number_is_seen(run, change, tmp_path):
    with pytest.raises(E.Unequal, match='does not hold layers.1.self_attn.q_proj.weight as F32'):
        E.read_back(run, broken(run, tmp_path/'out', change), 'float32')


def test_transformers_with_other_weights_is_refused(run, tmp_path, monkeypatch):
    pytest.importorskip('transformers')
    def other(source, folder, precision):
        model = GPT.load(source)
        model.layers[0].mlp.down_proj.weight.data[0, 0] += 1
        model.save(folder)
    monkeypatch.setattr(E, '_write_weights', other)
    monkeypatch.setattr(E, 'opened', lambda folder, real=E.opened: real(run.path))
    with pytest.raises(E.Unequal, match='transformers gives scores that differ from ours by'):
        E.export(run, 'huggingface', out=tmp_path/'out', tell=lambda line: None)
    assert not list(tmp_path.iterdir())


def test_messages(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    def err(*args):
        assert main(['export', str(run.path), *args]) == 2
        return capsys.readouterr().err
    assert f'--to is missing; there are {", ".join(E.FORMATS)}' in err()
    assert "to='onnx': there are huggingface, gguf" in err('--to', 'onnx')
    kinds = "precision of gguf='int4': there are float32, float16, bfloat16, Q8_0"
    assert kinds in err('--to', 'gguf', '--precision', 'int4')
    assert "precision of tiktoken='float32': there is none" in err('--to', 'tiktoken', '--precision', 'float32')
    assert 'is the run itself' in err('--to', 'minbpe', '--out', str(run.path), '--force')
    (tmp_path/'file').touch()
    assert 'file is a file; name a folder' in err('--to', 'minbpe', '--out', 'file')
    with monkeypatch.context() as m:
        m.setattr(E, 'missing', lambda package, *_: f'{package}: not checked')
        assert 'pip install gguf' in err('--to', 'gguf')
    assert not os.path.exists('exports')
    assert main(['export', str(run.path), '--to', 'minbpe']) == 0
    assert 'minbpe: not checked' in capsys.readouterr().out
    assert 'is not empty' in err('--to', 'minbpe') and main(['export', str(run.path), '--to', 'minbpe', '--force']) == 0


def test_what_cannot_be_taken_along_is_refused(run, tmp_path, quiet):
    def refused(to, change):
        mine = Run(shutil.copytree(run.path, tmp_path/f'{len(list(tmp_path.iterdir()))}'))
        change(mine)
        with pytest.raises(ValueError) as e: E.export(mine, to, out=tmp_path/'out', tell=quiet)
        assert not (tmp_path/'out').exists()
        return str(e.value)
    def save(**kwargs): return lambda r: Tokenizer(run.tokenizer.vocab, **kwargs).save(r.path/'tokenizer.bpe')
    assert 'only GPT4_PATTERN' in refused('gguf', save(pattern=r'\S+|\s+'))
    assert "'fin' is one word" in refused('gguf', save(special_tokens=['fin']))
    assert 'give its spelling for Oniguruma' in refused('huggingface', save(pattern=r'\S+|\s+'))
    assert 'minbpe cannot store' in refused('minbpe', save(special_tokens=['a b']))
    assert 'is unfinished' in refused('huggingface', lambda r: (r.path/'result.json').unlink())


def test_the_card_of_a_text_that_nobody_knows(run):
    made = card(run, run.result)
    assert made.startswith('---\nlicense: unknown\nlibrary_name: transformers\npipeline_tag: text-generation\n')
    assert 'language' not in head(run) and 'whose licence this program does not know' in made
    assert "mini_llm generate \"En un lugar\" --run ." in made and "print(write('En un lugar')" in made
    assert (run.path/'loss.png').read_bytes().startswith(b'\x89PNG') and '](loss.png)' in made


def test_the_shelf_has_what_an_export_has():
    "models/quijote is an export, card included, and its weights are what the card says"
    shelf = Run(ROOT/'models/quijote')
    text = (shelf.path/'README.md').read_text(encoding='utf-8')
    bits = float(text.split('| as it is here | ')[1].split(',')[0])
    assert text == card(shelf, shelf.result, ('bfloat16', bits))
    for name in 'tokenizer.json', 'tokenizer_config.json', 'generation_config.json', 'loss.png':
        assert (shelf.path/name).exists()


def test_probes_are_hard_and_always_the_same(run):
    a = E.probes(run.tokenizer, 'ñ\n')
    assert a == E.probes(run.tokenizer, 'ñ\n') and len(a) > 3000 and 'ñ\n' in a
    joined = ''.join(a)
    for o in [*E._BLANKS, *run.tokenizer.special_tokens, '我', '👩', "'s", '\0', '\ufeff']: assert o in joined
    assert not any('\ud800' <= c <= '\udfff' for c in joined)


@pytest.mark.slow
@pytest.mark.parametrize('precision', E._KINDS)
@pytest.mark.parametrize('shape', [{}, EVEN], ids=['odd', 'even'])
def test_llama_cpp_agrees(precision, shape, tmp_path):
    "Ids, scores and words of llama.cpp itself"
    pytest.importorskip('llama_cpp', reason='llama-cpp-python is not installed; it builds in about four minutes')
    lines = []
    E.export(made(tmp_path, **shape), 'gguf', precision, tmp_path/'out', tell=lines.append)
    said_so = '\n'.join(lines)
    print(said_so)
    exact = 'llama.cpp: scores equal within 0.0001', 'likeliest tokens, over two windows'
    same = 'llama.cpp: equal ids', 'llama.cpp, special tokens seen: equal', 'bytes that are no text'
    for o in same + (exact if precision == 'float32' else ('bits per byte on the held-out text',)): assert o in said_so


@pytest.mark.slow
def test_llama_cpp_writes_the_same_sentence(tmp_path, quiet):
    "The model of the book: one sentence by three programs"
    llama_cpp = pytest.importorskip('llama_cpp', reason='llama-cpp-python is not installed')
    pipeline = pytest.importorskip('transformers').pipeline
    book, prompt = Run(ROOT/'models/quijote'), 'En un lugar de la Mancha'
    file = E.export(book, 'gguf', out=tmp_path/'out', tell=quiet)/'quijote-F32.gguf'
    llama = llama_cpp.Llama(str(file), verbose=False)
    write = pipeline('text-generation', str(book.path), dtype='float32')
    texts = [prompt + generate(book, prompt, 60, temperature=0),
             llama(prompt, max_tokens=60, temperature=0, echo=True)['choices'][0]['text'],
             write(prompt, max_new_tokens=60, do_sample=False)[0]['generated_text']]
    print(*texts, sep='\n')
    assert len(set(texts)) == 1
    assert llama.metadata['general.author'] == 'mini_llm contributors'


@pytest.mark.slow
def test_llama_cpp_refuses_what_was_changed(run, tmp_path):
    "The proof can fail: a file with one wrong matrix, one with another way to split"
    pytest.importorskip('llama_cpp', reason='llama-cpp-python is not installed')
    file = broken(run, tmp_path/'out', lambda x: x[::-1].copy())
    with pytest.raises(E.Unequal, match='llama.cpp gives scores'):
        list(E._check_llama_cpp(run, file, E.opened(run.path)))
