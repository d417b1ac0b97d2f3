"Home from elsewhere: tokenizers of Hugging Face, Qwen3 checkpoints of others, and training that goes on from them"
import dataclasses
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from commands import EVIL, ROOT, assert_same
from torch.testing import assert_close

from mini_llm import train as T
from mini_llm.bpe import Tokenizer
from mini_llm.engine.decoding import Decoder, Unsupported
from mini_llm.engine.device import this_machine
from mini_llm.engine.gradients import gradients
from mini_llm.generate import generate, generate_texts, load, stream
from mini_llm.gpt import GPT, GPTConfig
from mini_llm.train import TrainConfig, Trainer, new_run, reproduce, resume, train
from mini_llm.workshop.commands import dataset_command, generate_command, train_command
from mini_llm.workshop.dataset import encode_corpus, load_tokens

TEXT = (ROOT/'datasets'/'cervantes.txt').read_text('utf-8')
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")
LLAMA3 = QWEN.replace(r'|\p{N}|', r'|\p{N}{1,3}|')
SPLITS = dict(qwen=QWEN, llama3=LLAMA3, gpt2=None, words_only=r'\w+', none='', literal=' ')


def their_tokenizer(split=QWEN, size=600, special=('<|endoftext|>', '<|im_start|>', '<think>'), text=TEXT[:60_000]):
    "A byte-level BPE tokenizer as the library `tokenizers` makes it"
    t = pytest.importorskip('tokenizers')
    res, spell = t.Tokenizer(t.models.BPE()), t.pre_tokenizers.ByteLevel
    if split is None: res.pre_tokenizer = spell(add_prefix_space=False)
    elif not split: res.pre_tokenizer = spell(add_prefix_space=False, use_regex=False)
    else:
        cut = t.pre_tokenizers.Split(split if split == ' ' else t.Regex(split), 'isolated')
        res.pre_tokenizer = t.pre_tokenizers.Sequence([cut, spell(add_prefix_space=False, use_regex=False)])
    res.decoder = t.decoders.ByteLevel()
    trainer = t.trainers.BpeTrainer(vocab_size=size, initial_alphabet=spell.alphabet(), show_progress=False)
    res.train_from_iterator(text.splitlines(keepends=True), trainer)
    res.add_special_tokens(list(special))
    return res


def with_gaps(form):
    "Special tokens that stand apart from each other, as GPT-4's do"
    for i, o in enumerate(form['added_tokens']):
        o['id'] += 7*(i+1)
        form['model']['vocab'][o['content']] = o['id']      # where `tokenizers` looks for it
    return form


def nasty(n, rng=random.Random(0)):
    "Texts of all kinds: the corpus, other scripts, blanks, runs of one letter, special tokens, random characters"
    lines = TEXT.splitlines(keepends=True)
    blanks = ' \t\n\r\x0b\x0c\x85\xa0\u2003\u3000'
    some = ['ab', "'s'LL'ſ", '1234567', ' ', '\n', 'ñ', '漢字', '😀👩‍👩‍👧‍👦', 'لا إله', '<|endoftext|>', '<think>',
            'e\u0301', 'aaaa', '  ', '…—«»', 'ＡＢ', '\u200d', '\x00', '٣٤', 'Ⅷ', '\ue000', '\U0010ffff']
    yield from [*EVIL, 'a'*1000, ' '*1000, '\n'*300]
    for _ in range(n//4):
        yield rng.choice(lines)[rng.randrange(20):]
        yield ''.join(rng.choice(some) for _ in range(rng.randrange(1, 30)))
        yield ''.join(rng.choice(blanks + 'a.1') for _ in range(rng.randrange(1, 30)))
        yield rng.choice('aelno ') * rng.randrange(1, 60) + rng.choice(some)


@pytest.mark.parametrize('split', SPLITS)
def test_a_tokenizer_of_theirs_gives_the_same_ids(tmp_path, split):
    theirs = their_tokenizer(SPLITS[split])
    (tmp_path/'tokenizer.json').write_text(json.dumps(with_gaps(json.loads(theirs.to_str()))), 'utf-8')
    theirs, ours = type(theirs).from_file(str(tmp_path/'tokenizer.json')), Tokenizer.from_huggingface(tmp_path)
    assert ours.special_tokens == {o: theirs.token_to_id(o) for o in ['<|endoftext|>', '<|im_start|>', '<think>']}
    assert ours.n_vocab > ours.vocab_size + 20
    for text in nasty(3000):
        ids = theirs.encode(text).ids
        assert ours.encode(text, allowed_special='all').tolist() == ids, ascii(text)
        assert ours.decode(ids) == text
    ours.save(tmp_path/'ours.model')
    assert Tokenizer.load(tmp_path/'ours.model') == ours


NFC = dict(type='NFC')
BYTES = dict(type='ByteLevel', add_prefix_space=False, use_regex=False)

def chain(*parts): return dict(type='Sequence', pretokenizers=[*parts, BYTES])

def cut(pattern=QWEN, **changes):
    return chain(dict(type='Split', pattern=dict(Regex=pattern), behavior='Isolated', invert=False) | changes)


@pytest.fixture(scope='module')
def form(): return json.loads(their_tokenizer().to_str())


@pytest.mark.parametrize('change, word', [
    (dict(normalizer=NFC), 'normalizer NFC'),
    (dict(normalizer=dict(type='Sequence', normalizers=[NFC])), 'Sequence of NFC'),
    (dict(pre_tokenizer=None), 'None'), (dict(pre_tokenizer=dict(type='Metaspace')), 'Metaspace'),
    (dict(pre_tokenizer=dict(type='Whitespace')), 'Whitespace'),
    (dict(pre_tokenizer=BYTES | dict(add_prefix_space=True)), 'add_prefix_space'),
    (dict(pre_tokenizer=chain(dict(type='Digits', individual_digits=True))), 'Digits'),
    (dict(pre_tokenizer=chain(dict(type='Digits'), dict(type='Digits'))), '3 pre-tokenizers'),
    (dict(pre_tokenizer=cut(behavior='Removed')), 'behavior'), (dict(pre_tokenizer=cut(invert=True)), 'invert'),
    (dict(pre_tokenizer=cut(r'\p{N}{1,3}+|\P{N}+')), r'\{1,3\}\+'),
    (dict(pre_tokenizer=cut(r'\s+$|\S+')), r'\$'),
    (dict(pre_tokenizer=cut('(')), 'does not compile'),
    (dict(post_processor=dict(type='TemplateProcessing')), 'TemplateProcessing'),
    (dict(model=dict(type='Unigram')), 'Unigram'), (dict(model=dict(type='WordPiece')), 'WordPiece')])
def test_what_is_no_plain_byte_level_bpe_is_refused_by_name(tmp_path, form, change, word):
    (tmp_path/'tokenizer.json').write_text(json.dumps(form | change), 'utf-8')
    with pytest.raises(ValueError, match=f'tokenizer.json cannot be used: .*{word}'):
        Tokenizer.from_huggingface(tmp_path)


def swapped(d, a, b): return d | {a: d[b], b: d[a]}

@pytest.mark.parametrize('change, word', [
    (lambda m: m | dict(dropout=.1), 'dropout'), (lambda m: m | dict(byte_fallback=True), 'byte_fallback'),
    (lambda m: m | dict(end_of_word_suffix='</w>'), 'end_of_word_suffix'),
    (lambda m: m | dict(merges=[]), 'not made by its merges'),
    (lambda m: m | dict(merges=m['merges'][::-1]), 'not made by its merges'),
    (lambda m: m | dict(merges=m['merges'][1:]), 'not made by its merges'),
    (lambda m: m | dict(vocab={k: v+1 for k, v in m['vocab'].items()}), 'the id 0 is no token'),
    (lambda m: m | dict(vocab=swapped(m['vocab'], 'a', max(m['vocab'], key=m['vocab'].get))), 'begin with the 256'),
    (lambda m: m | dict(vocab=m['vocab'] | {'我我': 600}), 'spelled in bytes')])
def test_a_vocabulary_that_is_numbered_otherwise_is_refused(tmp_path, form, change, word):
    changed = form | dict(model=change(form['model']), added_tokens=[])
    (tmp_path/'tokenizer.json').write_text(json.dumps(changed), 'utf-8')
    with pytest.raises(ValueError, match=f'tokenizer.json cannot be used: .*{word}'):
        Tokenizer.from_huggingface(tmp_path)


@pytest.mark.parametrize('text', ['', '{', '[]', '{}', '{"model": 3, "pre_tokenizer": 5}', '['*100_000, 'null'])
def test_a_damaged_tokenizer_file_is_refused(tmp_path, text):
    (tmp_path/'tokenizer.json').write_text(text, 'utf-8')
    with pytest.raises(ValueError, match='tokenizer.json (cannot be used|is damaged)'):
        Tokenizer.from_huggingface(tmp_path)


def test_a_special_token_whose_number_nobody_keeps_is_refused(tmp_path, form):
    added = [o | dict(id=o['id'] + 5) for o in form['added_tokens']]
    (tmp_path/'tokenizer.json').write_text(json.dumps(form | dict(added_tokens=added)), 'utf-8')
    with pytest.raises(ValueError, match='said to be 605, and the library `tokenizers` makes it 600'):
        Tokenizer.from_huggingface(tmp_path)


# a small Qwen3 with everything that ours need not have: few heads of keys, wide heads, rows that no token uses
CONFIG = dict(vocab_size=704, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=6,
              num_key_value_heads=2, head_dim=16, max_position_embeddings=64, tie_word_embeddings=True,
              rms_norm_eps=1e-5, bos_token_id=600, eos_token_id=602)


def their_model(**changes):
    "A Qwen3 of transformers with random weights that matter, but none in the rows beyond the tokenizer's ids"
    transformers = pytest.importorskip('transformers')
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    res = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**CONFIG | changes)).eval()
    with torch.no_grad():
        for name, p in res.named_parameters():
            p.copy_(torch.rand_like(p) + .5 if 'norm' in name else torch.randn_like(p)*.2)
        res.model.embed_tokens.weight[600:] = 0
    return res


def save_home(folder, shards=False, dtype=torch.float32, **changes):
    "Model and tokenizer as `save_pretrained` leaves them"
    model = their_model(**changes).to(dtype)
    model.save_pretrained(folder, **(dict(max_shard_size='60KB') if shards else {}))
    (folder/'tokenizer.json').write_text(json.dumps(with_gaps(json.loads(their_tokenizer().to_str()))), 'utf-8')
    return model


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp('elsewhere')
    save_home(folder, shards=True, rope_parameters=dict(rope_type='default', rope_theta=1e6))
    return folder


@torch.no_grad()
@pytest.mark.parametrize('shards, dtype', [(False, torch.float32), (True, torch.float16), (True, torch.bfloat16)])
def test_a_checkpoint_of_theirs_gives_the_same_logits_and_text(tmp_path, shards, dtype):
    theirs = type(save_home(tmp_path, shards, dtype)).from_pretrained(tmp_path, dtype=torch.float32)
    assert (len(list(tmp_path.glob('*.safetensors'))) > 3) == shards
    assert (tmp_path/'model.safetensors.index.json').exists() == shards
    model, tokenizer = GPT.from_huggingface(tmp_path)
    ids = torch.randint(600, (2, 64))
    want = theirs(ids).logits
    assert_close(model(ids), want, atol=1e-4, rtol=1e-4)
    decoder = Decoder(tmp_path)
    fast = torch.tensor(decoder.feed(ids.tolist(), decoder.new_cache(2), every=True))
    assert_close(fast.view_as(want), want, atol=1e-4, rtol=1e-4)
    prompt = tokenizer.encode('En un lugar de la Mancha').tolist()
    new = 60 - len(prompt)
    greedy = dict(do_sample=False, max_new_tokens=new, eos_token_id=-1, pad_token_id=0)
    seen = torch.tensor([prompt])
    want = theirs.generate(seen, attention_mask=torch.ones_like(seen), **greedy)[0, len(prompt):].tolist()
    for o in model, tmp_path: assert generate(o, prompt, new, temperature=0).tolist() == want
    assert generate(tmp_path, 'En un lugar de la Mancha', new, temperature=0) == tokenizer.decode(want)


@pytest.mark.parametrize('spelling', [dict(rope_theta=5e5), dict(rope_parameters=dict(rope_theta=5e5)),
                                      dict(rope_theta=500000, rope_scaling=None),
                                      dict(rope_parameters=dict(rope_theta=5e5, rope_type='default'), rope_theta=5e5)])
def test_both_spellings_of_the_rotary_base_are_read(home, tmp_path, spelling):
    config = {k: v for k, v in json.loads((home/'config.json').read_text('utf-8')).items() if not k.startswith('rope')}
    (tmp_path/'config.json').write_text(json.dumps(config | spelling), 'utf-8')
    for p in home.glob('*.safetensors*'): (tmp_path/p.name).symlink_to(p)
    assert GPT.load(tmp_path).cfg.rope_theta == Decoder(tmp_path).cfg.rope_theta == 5e5


QWEN3_SMALL = dict(   # what the smallest Qwen3 says of itself
    architectures=['Qwen3ForCausalLM'], attention_bias=False, attention_dropout=0.0, bos_token_id=151643,
    eos_token_id=151645, head_dim=128, hidden_act='silu', hidden_size=1024, initializer_range=0.02,
    intermediate_size=3072, max_position_embeddings=40960, max_window_layers=28, model_type='qwen3',
    num_attention_heads=16, num_hidden_layers=28, num_key_value_heads=8, rms_norm_eps=1e-06, rope_scaling=None,
    rope_theta=1000000, sliding_window=None,
    tie_word_embeddings=True, torch_dtype='bfloat16', transformers_version='4.51.0', use_cache=True,
    use_sliding_window=False, vocab_size=151936)

def test_the_config_of_a_real_qwen3_is_read():
    cfg = GPTConfig.from_qwen3(QWEN3_SMALL)
    with torch.device('meta'): n = sum(p.numel() for p in GPT(cfg).parameters())
    assert n == 596_049_920 and (cfg.head_dim, cfg.n_kv_head, cfg.rope_theta) == (128, 8, 1e6)


@torch.no_grad()
@pytest.mark.parametrize('changes, word', [
    (dict(model_type='llama'), 'model_type'), (dict(model_type='qwen2'), 'model_type'),
    (dict(model_type='qwen3_moe'), 'model_type'), (dict(use_sliding_window=True), 'use_sliding_window'),
    (dict(layer_types=['full_attention']*2 + ['sliding_attention']), 'layer_types'),
    (dict(rope_scaling=dict(type='linear', factor=2.)), 'linear'),
    (dict(rope_scaling=dict(rope_type='yarn', factor=4.)), 'yarn'),
    (dict(rope_parameters=dict(rope_type='llama3', rope_theta=1e6)), 'llama3'),
    (dict(rope_parameters=dict(rope_theta=1e6, factor=2.)), 'factor'),
    (dict(partial_rotary_factor=.5), 'partial_rotary_factor'), (dict(attention_bias=True), 'attention_bias'),
    (dict(mlp_bias=True), 'mlp_bias'), (dict(num_experts=8), 'num_experts'),
    (dict(tie_word_embeddings=False), 'tie_word_embeddings'), (dict(tie_word_embeddings=None), 'tie_word_embeddings'),
    (dict(hidden_act='gelu'), 'hidden_act'), (dict(quantization_config=dict(bits=4)), 'quantization_config'),
    (dict(auto_map=dict(AutoModelForCausalLM='theirs.Model')), 'auto_map'),
    (dict(torch_dtype='float8_e4m3fn'), 'torch_dtype')])
def test_what_we_do_not_compute_is_refused_by_name_by_all_readers(home, tmp_path, changes, word):
    config = json.loads((home/'config.json').read_text('utf-8'))
    changed = {k: v for k, v in (config | changes).items() if v is not None}
    (tmp_path/'config.json').write_text(json.dumps(changed), 'utf-8')
    for p in [*home.glob('*.safetensors*'), home/'tokenizer.json']: (tmp_path/p.name).symlink_to(p)
    said = set()
    for read in GPT.load, GPT.from_huggingface, Decoder, load:
        with pytest.raises(Unsupported, match=f'config.json does not describe a model.*{word}') as e: read(tmp_path)
        said.add(str(e.value))
    assert len(said) == 1


def test_weights_with_biases_or_an_output_of_their_own_are_refused(tmp_path):
    table = (dict(attention_bias=True), 'bias'), (dict(tie_word_embeddings=False), 'lm_head.weight is not')
    for changes, word in table:
        their_model(**changes).save_pretrained(tmp_path)
        config = json.loads((tmp_path/'config.json').read_text('utf-8'))
        wrong = config | dict(attention_bias=False, tie_word_embeddings=True)        # a config that keeps silent
        (tmp_path/'config.json').write_text(json.dumps(wrong), 'utf-8')
        for read in GPT.load, Decoder:
            with pytest.raises(ValueError, match=word): read(tmp_path)


@pytest.mark.parametrize('index, word', [
    ('{', 'is damaged'), ('{}', 'is damaged'), ('{"weight_map": ["a"]}', 'is damaged'),
    ('{"weight_map": {"a": 3}}', 'names 3'),
    ('{"weight_map": {"a": "../model.safetensors"}}', 'which is no .safetensors file beside it'),
    ('{"weight_map": {"a": "model.bin"}}', 'which is no .safetensors file'),
    ('{"weight_map": {"a": "gone.safetensors"}}', 'gone.safetensors is missing')])
def test_a_damaged_index_is_refused(home, tmp_path, index, word):
    (tmp_path/'config.json').write_bytes((home/'config.json').read_bytes())
    (tmp_path/'model.safetensors.index.json').write_text(index, 'utf-8')
    for read in GPT.load, Decoder:
        with pytest.raises(ValueError, match=word): read(tmp_path)


def test_shards_that_overlap_or_lack_a_tensor_are_refused(home, tmp_path):
    for p in home.glob('*'): (tmp_path/p.name).write_bytes(p.read_bytes())
    shards = sorted(tmp_path.glob('*.safetensors'))
    kept = shards[1].read_bytes()
    shards[1].write_bytes(shards[0].read_bytes())
    with pytest.raises(ValueError, match='stands in two files'): GPT.load(tmp_path)
    shards[1].write_bytes(kept[:-100])
    with pytest.raises(ValueError, match=f'{shards[1].name} is no whole safetensors file'): GPT.load(tmp_path)
    index = tmp_path/'model.safetensors.index.json'
    less = {k: v for k, v in json.loads(index.read_text('utf-8'))['weight_map'].items() if v != shards[1].name}
    index.write_text(json.dumps(dict(weight_map=less)), 'utf-8')
    with pytest.raises(ValueError, match='it lacks'): GPT.load(tmp_path)


def test_a_folder_without_weights_or_tokenizer_says_what_is_missing(home, tmp_path):
    with pytest.raises(ValueError, match='is not a training run.*Nor is it a model of others'): load(tmp_path)
    (tmp_path/'config.json').write_bytes((home/'config.json').read_bytes())
    (tmp_path/'pytorch_model.bin').write_bytes(b'x')
    with pytest.raises(ValueError, match='has no model.safetensors, but pytorch_model.bin'): GPT.load(tmp_path)
    for p in home.glob('*.safetensors*'): (tmp_path/p.name).symlink_to(p)
    with pytest.raises(ValueError, match='has no tokenizer'): GPT.from_huggingface(tmp_path)
    assert GPT.load(tmp_path).cfg.vocab_size == 704


def test_what_stands_for_no_text_ends_a_text(tmp_path):
    "Rows beyond the ids of the tokenizer, and the gaps between its special tokens"
    save_home(tmp_path)
    model, tokenizer = GPT.from_huggingface(tmp_path)
    with torch.no_grad(): model.embed_tokens.weight[600:] = torch.randn(104, 64)*.2      # as likely as any other now
    texts = generate_texts(model, ['En un lugar']*40, 40, seeds=range(40), tokenizer=tokenizer, temperature=2.)
    assert sum(o.ended == 'end' for o in texts) > 20
    assert ''.join(stream(model, 'En un lugar', 40, seed=3, tokenizer=tokenizer, temperature=2.)) == texts[3].text


@pytest.fixture(scope='module')
def tokens(home, tmp_path_factory):
    "A text in the ids of the model from elsewhere"
    return encode_corpus(home, [TEXT[-30_000:]], tmp_path_factory.mktemp('data')/'fin', 'fin.txt')


@pytest.fixture
def cfg(home, tokens, tmp_path):
    return TrainConfig(tokens, start=home, steps=6, batch_size=4, eval_every=3, threads=1, dtype='float32', warmup=2,
                       runs=tmp_path/'runs')


def weights(folder): return GPT.load(folder).state_dict()

def first_loss(folder, cfg):
    "What the first step of a run should report: the loss of the weights in a folder on the first batch"
    shape = dataclasses.replace(GPT.load(folder).cfg, dropout=0.)
    model = GPT(shape)
    model.load_state_dict(weights(folder))
    x, y = T.get_batch(load_tokens(cfg.data).train, 0, cfg.batch_size, shape.context_length, cfg.seed)
    return gradients(model, this_machine(1, 'float32'), cfg.batch_size).loss(x, y)


def test_token_files_take_the_tokenizer_of_a_model(home, tokens):
    data, tokenizer = load_tokens(tokens), Tokenizer.from_huggingface(home)
    assert data.meta['n_vocab'] == tokenizer.n_vocab and Tokenizer.load(tokens/'tokenizer.model') == tokenizer
    assert tokenizer.decode(data.train) + tokenizer.decode(data.val) == TEXT[-30_000:] + '<|endoftext|>'
    plain = encode_corpus(ROOT/'models'/'quijote', ['Sancho dijo. '*50], tokens.parent/'sancho')
    assert (plain/'tokenizer.model').read_bytes() == (ROOT/'models'/'quijote'/'tokenizer.bpe').read_bytes()
    assert load_tokens(plain).meta['tokenizer']['name'] == 'quijote/tokenizer.bpe'


def test_the_first_step_has_the_loss_of_the_given_weights(home, cfg):
    run = train(cfg, dict(dropout=0.), progress=False)
    random = new_run(dataclasses.replace(cfg, start=None), dict(n_layer=1, context_length=64))
    scratch = Trainer(random)
    scratch.budget.plan(0, scratch.team)
    taken, scratch = run.metrics[0]['loss'], scratch.step()['loss']
    assert taken == pytest.approx(first_loss(home, cfg), abs=1e-5) and abs(taken - scratch) > .5
    shape = GPT.load(run.path).cfg
    assert shape == dataclasses.replace(GPT.load(home).cfg, dropout=0.) and shape.vocab_size > run.tokenizer.n_vocab
    assert run.settings['train']['learning_rate'] == pytest.approx(.1*.014)
    assert run.metrics[-1]['val_bits'] < run.metrics[2]['val_bits']
    changed = [k for k, w in weights(run.path).items() if not w.equal(weights(home)[k])]
    assert len(changed) == len(weights(home))
    still = train(dataclasses.replace(cfg, learning_rate=0, adam_learning_rate=0), dict(dropout=0.), progress=False)
    assert all(w.equal(weights(home)[k]) for k, w in weights(still.path).items())


def test_a_run_goes_on_from_a_run_and_from_its_best(cfg):
    first = train(cfg, progress=False)
    for start in first.path, first.path/'best':
        if start.name == 'best': shutil.copy(first.tokenizer_file, start)
        again = train(dataclasses.replace(cfg, start=start), dict(dropout=0.), progress=False)
        assert again.metrics[0]['loss'] == pytest.approx(first_loss(start, cfg), abs=1e-5)


@pytest.mark.parametrize('at', [0, 5])
def test_a_run_with_a_start_is_resumed_and_repeated_exactly(cfg, monkeypatch, at):
    calm = train(cfg, progress=False)
    plain, done = Trainer.step, [0]
    def step(self):
        if done[0] == at: raise KeyboardInterrupt
        done[0] += 1
        return plain(self)
    monkeypatch.setattr(Trainer, 'step', step)
    with pytest.raises(KeyboardInterrupt): train(dataclasses.replace(cfg, checkpoint_seconds=0), progress=False)
    monkeypatch.setattr(Trainer, 'step', plain)
    path = next(p for p in Path(cfg.runs).iterdir() if not (p/'result.json').exists())
    assert_same(resume(path, progress=False), calm)
    assert_same(reproduce(calm.path, progress=False), calm)


def test_after_it_the_start_may_go_but_for_repeating_it_must_be_the_same(home, cfg, tmp_path):
    shutil.copytree(home, tmp_path/'elsewhere')
    here = dataclasses.replace(cfg, start=tmp_path/'elsewhere')
    calm, trainer = train(here, progress=False), Trainer(new_run(here))
    assert_same(resume(renewed(calm).path, progress=False), calm)                   # no checkpoint yet
    trainer.budget.plan(0, trainer.team)
    trainer.checkpoint()
    GPT(GPT.load(home).cfg).save(tmp_path/'elsewhere')          # other weights in the same place
    assert_same(resume(trainer.run.path, progress=False), calm)
    with pytest.raises(ValueError, match='holds other weights .* than those that .* started from'): reproduce(calm.path)
    with pytest.raises(ValueError, match='holds other weights'): resume(renewed(calm).path)
    shutil.rmtree(tmp_path/'elsewhere')
    with pytest.raises(ValueError, match='they are not there; put them back'): reproduce(calm.path)


def renewed(run):
    "A run as it was before its first checkpoint"
    path = run.path.with_name('renewed')
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for name in 'train.json', 'config.json', 'tokenizer.bpe': shutil.copy(run.path/name, path)
    return T.Run(path)


@pytest.mark.parametrize('shape, word', [
    (dict(n_layer=2), 'n_layer=2, but .* has 3'), (dict(n_embd=128), 'n_embd=128, but'),
    (dict(vocab_size=703), 'vocab_size'), (dict(context_length=65), 'has learned to see 64 tokens'),
    (GPTConfig(704, 64, 3, 6, 2, 64, 16, 96), 'norm_eps=1e-06, but')])
def test_a_shape_that_contradicts_the_weights_is_refused(cfg, shape, word):
    with pytest.raises(ValueError, match=word): train(cfg, shape, progress=False)
    assert not Path(cfg.runs).exists()


def test_what_does_not_contradict_is_welcome(home, cfg):
    run = train(cfg, dict(n_layer=3, context_length=32, dropout=.1), progress=False)
    assert GPT.load(run.path).cfg == dataclasses.replace(GPT.load(home).cfg, context_length=32, dropout=.1)
    whole = dataclasses.replace(GPT.load(home).cfg, dropout=.2)
    assert GPT.load(train(cfg, whole, progress=False).path).cfg == whole


def test_minutes_plan_the_rest_for_a_given_size(home, cfg):
    run = train(dataclasses.replace(cfg, steps=None, minutes=.05, batch_size=None, eval_every=None), progress=False)
    plan, c = run.settings['plan'], run.settings['train']
    assert '3 layers of 64' in plan['said'] and 'expect' not in plan['said'] and plan['bits'] is None
    assert c['batch_size'] >= 1 and run.result['steps'] > 1 and run.result['seconds'] < 15


def test_the_commands_lead_from_a_model_of_others_to_ones_own(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path('libro.txt').write_text(TEXT[-20_000:], 'utf-8')
    assert generate_command(['En un lugar', '--run', str(home), '--max_new_tokens', '9', '--seed', '1']) == 0
    shutil.copytree(home, 'theirs')
    assert dataset_command(['--encode_dataset', 'libro.txt', '--model', 'theirs', '--name', 'mine']) == 0
    assert 'train.py --start theirs' in capsys.readouterr().out
    small = ['--steps', '2', '--batch_size', '4', '--threads', '1', '--dtype', 'float32']
    assert train_command(['--start', 'theirs', *small]) == 0
    assert 'going on from theirs' in capsys.readouterr().out
    assert generate_command(['En un lugar', '--max_new_tokens', '9', '--seed', '1', '--precision', 'int8']) == 0
    assert train_command(['--start', 'theirs', '--preset', 'nano', *small]) == 2
    assert "the size of theirs is given with its weights" in capsys.readouterr().err
    assert dataset_command(['--train', '--vocab_size', '300', '--encode_dataset', 'libro.txt']) == 0
    assert train_command(['--start', 'theirs', '--data', 'datasets/libro300', *small]) == 2
    said = capsys.readouterr().err
    assert 'datasets/libro300 was encoded with libro300.model, and theirs reads with another tokenizer' in said
    command = said.split('dataset.py ')[1].split('`')[0].split()
    assert dataset_command(command) == 0
    assert train_command(['--start', 'theirs', '--data', 'datasets/libro-theirs600', *small]) == 0


@torch.no_grad()
def test_the_gallery_looks_into_a_model_of_others(home):
    from mini_llm.gallery.inside import attention_maps, logit_lens
    model, tokenizer = GPT.from_huggingface(home)
    ids = tokenizer.encode('En un lugar de la Mancha')
    maps = attention_maps(model, ids)
    assert maps.shape == (3, 6, len(ids), len(ids))
    assert_close(logit_lens(model, ids)[-1], model(torch.tensor(ids)[None].long())[0])
