"Home from elsewhere: tokenizers of Hugging Face, Qwen3 checkpoints of others, and training that goes on from them"
import json
import random

import pytest
from commands import EVIL, ROOT

from mini_llm.bpe import Tokenizer

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
    for text in nasty(4000):
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
