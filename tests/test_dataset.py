"Token files, and the command dataset.py as a person types it"
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mini_llm.bpe import END_OF_TEXT, Tokenizer, pieces
from mini_llm.workshop.dataset import compressor_bits, encode_corpus, find_tokenizer, load_tokens, split_texts
from mini_llm.engine.files import sha256

properties = settings(max_examples=200, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope='module')
def text(root): return (root/'datasets'/'cervantes.txt').read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def model(tmp_path_factory, text):
    path = tmp_path_factory.mktemp('models')/'cervantes300.model'
    Tokenizer.train(text[:50_000], vocab_size=300, special_tokens=[END_OF_TEXT]).save(path)
    return path


# --- the library

@properties
@given(st.lists(st.text(max_size=20), min_size=1, max_size=5), st.floats(.01, .99))
def test_split_is_one_cut_through_all_documents(texts, share):
    whole = ''.join(texts)
    cut = int(share*len(whole))
    if not 0 < cut < len(whole):
        with pytest.raises(ValueError): split_texts(texts, share)
        return
    train, val = split_texts(texts, share)
    assert (''.join(train), ''.join(val)) == (whole[:cut], whole[cut:])
    assert [*train[:-1], train[-1] + val[0], *val[1:]] == texts


@pytest.mark.parametrize('share', [0, 1, -.5, 1.5, float('nan')])
def test_split_share_lies_between_0_and_1(share):
    with pytest.raises(ValueError, match='train_split'): split_texts(['a'*100], share)


def test_pieces_do_not_change_the_ids(text, model):
    tok = Tokenizer.load(model)
    rng = random.Random(1)
    nasty = ''.join(rng.choice(['a', 'ñ', '1', '.', ',', ' ', '\n', '\n\n', '\t', "'s", '—', '\u2028', '\x1c'])
                    for _ in range(4_000))
    for t in (text[:60_000], nasty):
        for size in (1, 7, 500):
            parts = list(pieces(t, size))
            assert ''.join(parts) == t
            np.testing.assert_array_equal(np.concatenate([tok.encode(o) for o in parts]), tok.encode(t))


def test_token_files_hold_the_corpus(tmp_path, text, model):
    out = encode_corpus(model, [text], tmp_path/'c300')
    data, tok = load_tokens(out), Tokenizer.load(model)
    cut = int(.9*len(text))
    assert tok.decode(data.train) == text[:cut]
    assert tok.decode(data.val) == text[cut:] + END_OF_TEXT
    assert tok.special_tokens[END_OF_TEXT] not in data.train
    assert data.meta['train'] == dict(ids=len(data.train), bytes=len(text[:cut].encode()))
    assert data.meta['val'] == dict(ids=len(data.val), bytes=len(text[cut:].encode()))
    assert data.meta['corpus']['sha256'] == sha256(text.encode())
    assert data.meta['tokenizer'] == dict(name='cervantes300.model', sha256=sha256(model))
    assert isinstance(data.train, np.memmap) and data.train.dtype == np.uint16
    assert (out/'train.bin').read_bytes() == data.train.astype('<u2').tobytes()
    assert sorted(os.listdir(out)) == ['meta.json', 'tokenizer.model', 'train.bin', 'val.bin']


def test_each_document_ends(tmp_path, model):
    texts = ['Sancho Panza', 'Rocinante', f'a text that says {END_OF_TEXT}', 'Dulcinea']
    data, tok = load_tokens(encode_corpus(model, texts, tmp_path/'c', train_split=.6)), Tokenizer.load(model)
    ids = np.concatenate([data.train, data.val])
    assert tok.decode(ids) == ''.join(o + END_OF_TEXT for o in texts)
    assert (ids == tok.special_tokens[END_OF_TEXT]).sum() == 4   # the one in the text is ordinary text


def test_wide_ids(tmp_path):
    tok = Tokenizer([bytes([i]) for i in range(256)], special_tokens={END_OF_TEXT: 70_000})
    tok.save(tmp_path/'wide.model')
    data = load_tokens(encode_corpus(tmp_path/'wide.model', ['Rocinante'], tmp_path/'wide'))
    assert data.train.dtype == np.uint32
    assert data.val[-1] == 70_000


def test_a_second_attempt_that_fails_leaves_the_first(tmp_path, text, model, monkeypatch):
    out = encode_corpus(model, [text[:5_000]], tmp_path/'c')
    before = {o.name: o.read_bytes() for o in out.iterdir()}
    monkeypatch.setattr('mini_llm.workshop.dataset.compressor_bits',
                        lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt): encode_corpus(model, [text[:9_000]], out)
    assert {o.name: o.read_bytes() for o in out.iterdir()} == before


@pytest.mark.parametrize('file, data, reason', [
    ('train.bin', b'123', 'train.bin has 3 bytes'),
    ('val.bin', None, 'val.bin'),
    ('tokenizer.model', b'x', 'not the tokenizer'),
    ('tokenizer.model', None, 'tokenizer.model'),
    ('meta.json', None, 'no meta.json'),
    ('meta.json', b'', 'make the token files again'),
    ('meta.json', b'\xff', 'make the token files again'),
    ('meta.json', b'{}', 'meta.json is damaged'),
    ('meta.json', b'{"format": "mini_llm token files", "version": 2}', 'version 2')])
def test_what_does_not_fit_is_refused(tmp_path, model, file, data, reason):
    out = encode_corpus(model, ['Rocinante'*9], tmp_path/'c')
    if data is None: (out/file).unlink()
    else: (out/file).write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(reason)) as e: load_tokens(out)
    assert str(out) in str(e.value)


def test_reference_bits(text):
    cut = int(.9*len(text))
    bits = compressor_bits(text[:cut], text[cut:])
    assert bits['bzip2'] == pytest.approx(2.06, abs=.05) and bits['xz'] == pytest.approx(2.32, abs=.02)


def test_find_tokenizer_asks_the_file_for_its_size(tmp_path):
    alphabet = [bytes([i]) for i in range(256)]
    for name,extra in (('book256', 0), ('book257', 1), ('book1258', 2), ('bookish256', 0)):
        Tokenizer(alphabet + [b'ab', b'cd'][:extra]).save(tmp_path/f'{name}.model')
    assert find_tokenizer('book', folder=tmp_path).name == 'book257.model'
    assert find_tokenizer('book1', folder=tmp_path).name == 'book1258.model'
    assert find_tokenizer('book', 256, tmp_path).name == 'book256.model'
    with pytest.raises(ValueError, match='book1258.model, book256.model'): find_tokenizer('boo', folder=tmp_path)
    with pytest.raises(ValueError, match='only nothing'): find_tokenizer('book', folder=tmp_path/'none')


# --- the command

@pytest.fixture
def run(tmp_path, root):
    "Run `python dataset.py` in a folder of its own: run('--train True ...') -> exit status, stdout, stderr"
    (tmp_path/'datasets').mkdir()
    shutil.copy(root/'datasets'/'cervantes.txt', tmp_path/'datasets')
    env = dict(os.environ, PYTHONPATH=str(root), PYTHONUTF8='1', OMP_NUM_THREADS='1', no_proxy='*')
    def run(line, stdin=b''):
        p = subprocess.run([sys.executable, root/'dataset.py', *line.split()], cwd=tmp_path, env=env, input=stdin,
                           capture_output=True, timeout=120)
        return p.returncode, p.stdout.decode(), p.stderr.decode()
    run.folder, run.env = tmp_path, env
    return run


def files(run): return sorted(o.relative_to(run.folder).as_posix() for o in run.folder.rglob('*') if o.is_file())


def test_the_commands_of_the_mission(run):
    status, out, err = run('--train True --train_dataset datasets/cervantes.txt --vocab_size 256 '
                           '--encode_dataset datasets/cervantes.txt')
    assert (status, err) == (0, '')
    made = ['datasets/cervantes.txt', *(f'datasets/cervantes256/{o}' for o in ('meta.json', 'tokenizer.model',
                                                            'train.bin', 'val.bin')),
            'tokenizer_models/cervantes256.model']
    assert files(run) == made
    assert '1.00 bytes per token' in out and re.search(r'\nnext: .*train\.py\n$', out)
    before = (run.folder/'datasets/cervantes256/meta.json').read_bytes()
    status, out, err = run('-encode_dataset datasets/cervantes.txt -m tokenizer_models/cervantes256.model')
    assert (status, err) == (0, '')
    assert files(run) == made and (run.folder/'datasets/cervantes256/meta.json').read_bytes() == before


def test_short_forms_and_the_tokenizer_that_is_chosen(run):
    assert run('-t True -td datasets/cervantes.txt -vs 256 -ts 0.8')[0] == 0
    status, out, _ = run('-train -train_dataset datasets/cervantes.txt -vocab_size 260')
    assert status == 0 and re.search(r'next: .*dataset\.py --encode_dataset datasets/cervantes\.txt\n', out)
    status, out, _ = run('-ed datasets/cervantes.txt -ts 0.5')
    assert status == 0 and 'encoding with tokenizer_models/cervantes260.model' in out
    meta = json.loads((run.folder/'datasets/cervantes260/meta.json').read_text())
    assert meta['train_split'] == .5 and meta['corpus']['name'] == 'cervantes.txt'
    status, out, _ = run('--train False -td datasets/cervantes.txt -vs 256 --encode_dataset datasets/cervantes.txt')
    assert status == 0 and 'encoding with tokenizer_models/cervantes256.model' in out and 'learned' not in out


def test_the_tokenizer_sees_the_training_part_only(run):
    (run.folder/'two.txt').write_text('ab'*900 + 'xy'*100)
    assert run('--train --encode_dataset two.txt --vocab_size 257')[0] == 0
    assert run('--train --encode_dataset two.txt --vocab_size 264')[0] == 0
    tok = Tokenizer.load(run.folder/'tokenizer_models'/'two264.model')
    assert not any(b'x' in o for o in tok.vocab[256:])


def test_several_files_and_standard_input(run):
    (run.folder/'one.txt').write_text('uno '*500)
    (run.folder/'two.txt').write_bytes('dos años\r\n'.encode()*500)
    status, out, err = run('--train --vocab_size 258 --encode_dataset one.txt two.txt')
    assert (status, err) == (0, '')
    data = load_tokens(run.folder/'datasets'/'one+1258')
    tok = Tokenizer.load(data.path/'tokenizer.model')
    assert tok.decode(np.concatenate([data.train,
                                      data.val])) == 'uno '*500 + END_OF_TEXT + 'dos años\n'*500 + END_OF_TEXT
    assert data.meta['corpus']['name'] == 'one.txt, two.txt'
    status, out, err = run('--train True --train_dataset - --encode_dataset - --vocab_size 258',
                           'desde una tubería\n'.encode()*100)
    assert (status, err) == (0, '')
    assert load_tokens(run.folder/'datasets'/'stdin258').meta['corpus']['name'] == 'standard input'


def test_too_little_text_for_the_vocabulary_is_said(run):
    (run.folder/'a.txt').write_text('hola hola hola')
    status, out, err = run('--train -ed a.txt -vs 1024')
    assert status == 0
    assert re.fullmatch(r'dataset.py: .*vocab_size.*\n', err)
    assert 'Warning' not in err and (run.folder/'tokenizer_models/a1024.model').exists() is False


@pytest.mark.parametrize('line, reason', [
    ('--encode_dataset nowhere.txt', 'nowhere.txt: No such file or directory'),
    ('--encode_dataset datasets/cervantes.txt', 'no tokenizer named cervantes in tokenizer_models/, only nothing'),
    ('-ed datasets/cervantes.txt -m nowhere.model', 'nowhere.model: No such file or directory'),
    ('-ed datasets/cervantes.txt -m datasets/cervantes.txt', 'datasets/cervantes.txt, line 1'),
    ('--train True', '--train True needs a text'),
    ('--train maybe -td datasets/cervantes.txt', "True or False, not 'maybe'"),
    ('-td datasets/cervantes.txt -vs 100', 'vocab_size=100'),
    ('-td datasets/cervantes.txt -vs many', "invalid int value: 'many'"),
    ('-td datasets/cervantes.txt -ts 1.5', 'train_split=1.5'),
    ('-td empty.txt', 'empty.txt is empty'),
    ('-td russian.txt', 'russian.txt is not UTF-8 text: byte 0xc2 at position 0 (line 1)'),
    ('-td datasets/cervantes.txt --name a/b', "--name 'a/b' is not the name of a file"),
    ('-td datasets/cervantes.txt --pattern [', 'pattern'),
    ('-td datasets/cervantes.txt --encoding klingon', "there is no encoding 'klingon'"),
    ('-ed -', 'standard input is empty'),
    ('-m some.model', 'there is no text to encode'),
    ('--gutenberg 0', 'numbered from 1'),
    ('--what', 'unrecognized arguments: --what')])
def test_mistakes_are_one_line_and_status_2(run, line, reason):
    (run.folder/'empty.txt').write_bytes(b'')
    (run.folder/'russian.txt').write_bytes('Всё смешалось'.encode('cp1251'))
    before = files(run)
    status, out, err = run(line)
    assert status == 2
    assert reason in err
    assert err.startswith('dataset.py: ') and err.count('\n') == 1
    assert files(run) == before


def test_nothing_said_is_help_and_status_2(run):
    status, out, err = run('')
    assert status == 2 and out == '' and 'examples:' in err
    status, out, err = run('--help')
    assert status == 0 and err == '' and '--gutenberg 2000' in out and '-td' in out


def test_a_gutenberg_book_from_a_browser(run):
    body = 'En un lugar de la Mancha, de cuyo nombre no quiero acordarme.\n\n'*60
    book = f'*** START OF THE PROJECT GUTENBERG EBOOK X ***\n\n{body}*** END OF THE PROJECT GUTENBERG EBOOK X ***\n'
    (run.folder/'datasets'/'pg2000.txt').write_text(book)
    status, out, err = run('--gutenberg 2000')
    assert (status, err) == (0, '')
    assert re.search(r'next: .*dataset\.py --train True --train_dataset datasets/gutenberg2000\.txt', out)
    status, out, err = run('--gutenberg 2000 --train True --vocab_size 258')
    assert (status, err) == (0, '')
    assert load_tokens(run.folder/'datasets'/'gutenberg2000258').meta['corpus']['name'] == 'gutenberg2000.txt'


@pytest.mark.skipif(os.name != 'posix', reason='signals')
def test_ctrl_c(run, root):
    p = subprocess.Popen([sys.executable, '-u', '-c',
                          "print('ready', flush=True); from mini_llm.workshop.commands import dataset_command as main; "
                          "print('go', flush=True); "
                          "raise SystemExit(main(['--train', '--encode_dataset', '-']))"], cwd=run.folder, env=run.env,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while p.stdout.readline() != b'go\n': pass
    try: p.wait(1)   # it waits for its input
    except subprocess.TimeoutExpired: pass
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=30)
    assert p.returncode == 130
    assert err.decode() == 'dataset.py: stopped; no file was left half-written\n'
    assert files(run) == ['datasets/cervantes.txt']
