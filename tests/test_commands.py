"The four commands behave alike: flags, mistakes, streams, names, lines to paste, whatever people do at a terminal"
import contextlib
import io
import os
import random
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, TINY, begin, end, python

from mini_llm.bpe import END_OF_TEXT, Tokenizer
from mini_llm.workshop.commands import _BY_NAME, main
from mini_llm.workshop.dataset import load_tokens
from mini_llm.workshop.terminal import command, quoted, run_command, say, started_as

NAMES = tuple(_BY_NAME)
SHAPE = [o for k,v in TINY.items() for o in (f'--{k}', str(v))]
SENTENCE = 'En un lugar de la Mancha, de cuyo nombre no quiero acordarme.\n'


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A folder with a text, token files and a run"
    folder = tmp_path_factory.mktemp('made')
    with contextlib.chdir(folder):
        Path('book.txt').write_text(SENTENCE*60, encoding='utf-8')
        assert quietly('dataset', '--train', '-ed', 'book.txt', '-vs', '260')[0] == 0
        assert quietly('train', '--steps', '2', *SHAPE)[0] == 0
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    "A fresh folder with the same things in it"
    import shutil
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quietly(name, *args, stdin=b'', **defaults):
    "Exit status, output and remarks of a command, in this process"
    out, err, before = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), encoding='utf-8')
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = _BY_NAME[name](list(args),
                                                            **defaults)
    finally: sys.stdin = before
    return code, out.getvalue(), err.getvalue()


GOOD = dict(dataset=['--train', '-ed', 'book.txt', '-vs', '258'], train=['--steps', '1', *SHAPE],
            generate=['Sancho', '--max_new_tokens', '3', '--seed', '1'], export=['--to', 'minbpe', '--force'])
WRONG = dict(dataset=['-ed', 'nowhere.txt'], train=['--data', 'nowhere'], generate=['Sancho', '--run', 'nowhere'],
             export=['--to', 'nowhere'])


# --- flags and help

@pytest.mark.parametrize('name', NAMES)
def test_help_teaches(name):
    code, out, err = quietly(name, '--help')
    assert (code, err) == (0, '') and 'examples:' in out and f'python {name}.py' in out
    flags = re.findall(r'^  (?:-\w+.*, )?--(\w+)', out, re.M)
    assert len(flags) > 10 and not re.search(r'\(default: .*\(default', out, re.S | re.M) or 'default' in out
    assert '%(default)' not in out and 'SUPPRESS' not in out
    assert quietly(name, '-h')[1] == out


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('args, reason', [
    (['--what'], 'unrecognized arguments: --what'), (['--hel'], 'unrecognized arguments: --hel'),
    (['--what', 'ever', '7'], 'unrecognized arguments: --what')])
def test_unknown_flags_and_abbreviations_are_one_line(here, name, args, reason):
    code, out, err = quietly(name, *args)
    assert (code, out) == (2, '') and err.startswith(f'{name}.py: ') and err.count('\n') == 1
    assert reason in err and f'python {name}.py --help explains' in err


@pytest.mark.parametrize('name, flag, near', [('dataset', '--vocabsize', 'vocab_size'), ('train', '--step', 'steps'),
                                              ('train', '--n_l', ''), ('generate', '--sede', 'seed')])
def test_no_abbreviations_and_a_hint(here, name, flag, near):
    code, out, err = quietly(name, flag, '1')
    assert code == 2 and f'unrecognized arguments: {flag}' in err and (not near or f'is --{near} meant?' in err)


@pytest.mark.parametrize('name, flag', [('dataset', 'vocab_size'), ('train', 'n_layer'), ('generate', 'top_p')])
def test_values_of_the_wrong_kind_and_missing_ones(here, name, flag):
    for args, reason in (([f'--{flag}', 'many'], "'many'"), ([f'--{flag}'], 'expected one argument'),
                         ([f'--{flag}='], "value: ''")):
        code, out, err = quietly(name, *args)
        assert code == 2 and reason in err and err.count('\n') == 1


@pytest.mark.parametrize('words, truth', [(['--json'], True), (['--json', 'True'], True), (['--json=true'], True),
                                          (['-json', 'FALSE'], False), (['--json=False'], False)])
def test_truth_is_told_in_one_way(here, words, truth):
    code, out, err = quietly('generate', *words, 'Sancho', '--max_new_tokens', '1')
    assert code == 0 and out.startswith('{') == truth and 'Sancho' in out


def test_dashes_and_hyphens(here):
    for line in ('--encode-dataset book.txt --vocab-size 260', '-encode_dataset=book.txt',
                 '-ed book.txt'): assert quietly('dataset', *line.split())[0] == 0


@pytest.mark.parametrize('text', ['-Hola', '-Hola, dijo Sancho', '--¡Hola!', '— Hola', '-', '-5', '--', '-hola',
                                  'a\nb', "''", '-¿Quién?', '--Hola'])
def test_a_prompt_that_begins_with_a_dash(here, text):
    args = [text] if text not in ('-', '--') else ['--', text] if text == '--' else [text]
    code, out, err = quietly('generate', *args, '--max_new_tokens', '2',
                             stdin=b'from a pipe') if text != '--' else quietly('generate', '--max_new_tokens', '2',
                                                            '--', text)
    assert code == 0 and out.startswith('from a pipe' if text == '-' else text)
    assert quietly('generate', '--stop', '-Hola', '--max_new_tokens', '2', 'x')[0] == 0
    code, out, err = quietly('generate', '--hola', 'x')
    assert code == 2 and 'goes after --' in err


def test_a_typo_in_a_script_is_refused(here):
    code, out, err = quietly('train', '--steps', '1', *SHAPE, learningrate=9)
    assert code == 2 and "there is no setting 'learningrate'; is 'learning_rate' meant?" in err
    assert len(list(Path('runs').iterdir())) == 1
    for wrong in (dict(preset='huge'), dict(steps='many'), dict(learning_rate='x')): assert quietly('train', *SHAPE,
                                                            **dict(steps=1) | wrong)[0] == 2
    assert 'Longest gradient (default: 0.5)' in quietly('train', '--help', clip=.5)[1]


# --- streams

class Gone(io.StringIO):
    "A pipe whose reader has left"
    def __init__(self, error): super().__init__(); self.error = error
    def write(self, text): raise self.error
    def flush(self): raise self.error
    def fileno(self): raise io.UnsupportedOperation('fileno')


STREAMS = dict(none=lambda: None, closed=lambda: closed(), gone=lambda: Gone(BrokenPipeError(32, 'Broken pipe')),
               full=lambda: Gone(OSError(28, 'No space left on device')),
               **{o: (lambda o=o: io.TextIOWrapper(io.BytesIO(), encoding=o, errors='strict'))
                  for o in ('ascii', 'cp1252', 'cp1251', 'utf-16')})

def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('kind', STREAMS)
def test_streams_that_are_missing_or_narrow(here, monkeypatch, name, kind):
    "The work is done whatever becomes of the words; only generate, whose words are its work, says that they are lost"
    Path('紅樓夢.txt').write_text(SENTENCE*60, encoding='utf-8')
    args = GOOD[name] if name != 'dataset' else ['--train', '-ed', '紅樓夢.txt', '-vs', '258']
    before = len(list(Path('runs').iterdir()))
    for args, expected in ((args, 2 if (name, kind) == ('generate', 'full') else 0), (WRONG[name], 2), (['--help'], 0)):
        monkeypatch.setattr(sys, 'stdout', STREAMS[kind]())
        monkeypatch.setattr(sys, 'stderr', STREAMS[kind]())
        mine = sys.stdout
        code = _BY_NAME[name](args)
        assert sys.stdout is mine
        monkeypatch.undo()
        monkeypatch.chdir(here)
        assert code == expected or kind == 'full' and code == 2, (args, code)
    assert name != 'dataset' or load_tokens('datasets/紅樓夢258').meta['corpus']['name'] == '紅樓夢.txt'
    assert name != 'train' or len(list(Path('runs').iterdir())) == before + 1


@pytest.mark.skipif(os.name != 'posix', reason='closing a stream in the shell')
@pytest.mark.parametrize('name', NAMES)
def test_streams_of_a_real_process(here, name):
    script, args = shlex.quote(str(ROOT/f'{name}.py')), ' '.join(map(shlex.quote, GOOD[name]))
    for how in ('>&- 2>&-', '| true', '2>&1 | true'):
        code, out, err = end(begin(['bash', '-c',
                                    f'set -o pipefail; {shlex.quote(sys.executable)} -u {script} {args} {how}'],
                                    cwd=here, PYTHONIOENCODING='cp1252'))
        assert code == 0 and 'Traceback' not in err and 'rror' not in err, (how, code, err)


def test_what_is_said_can_be_shown():
    with contextlib.redirect_stdout(io.StringIO()) as shown: say('a\x1b[2J\udcf1\x07', 'año')
    assert shown.getvalue() == 'a\\x1b[2J\\udcf1\\x07 año\n'


@pytest.mark.skipif(sys.platform != 'linux', reason='names of any bytes')
def test_names_that_are_no_text(here):
    name = os.fsdecode(b'a\xf1o\x1b[31m.txt')
    Path(name).write_text(SENTENCE*60, encoding='utf-8')
    code, out, err = quietly('dataset', '--train', '-ed', name, '-vs', '258')
    assert (code, err) == (0, '') and '\x1b' not in out and '\udcf1' not in out
    assert load_tokens(f'datasets/{name[:-4]}258').meta['corpus']['name'] == name
    assert quietly('train', '--steps', '1', *SHAPE, '--data', f'datasets/{name[:-4]}258')[0] == 0
    assert quietly('generate', 'x', '--max_new_tokens', '1', '--json')[0] == 0


@pytest.mark.parametrize('name', NAMES)
def test_ctrl_c(name, monkeypatch):
    monkeypatch.setattr('mini_llm.workshop.commands.parse', lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    code, out, err = quietly(name, '--seed', '1')
    assert code == 130 and err.startswith(f'{name}.py: stopped') and err.count('\n') == 1


@pytest.mark.parametrize('name', NAMES)
def test_faults_of_the_program_keep_their_traceback(name, monkeypatch):
    monkeypatch.setattr('mini_llm.workshop.commands.parse', lambda *args: 1/0)
    with pytest.raises(ZeroDivisionError): quietly(name, '--seed', '1')


def test_warnings_are_lines_also_when_they_are_errors_elsewhere(monkeypatch):
    import warnings
    def warn(argv): warnings.warn('look out')
    with contextlib.redirect_stderr(io.StringIO()) as err: assert run_command('dataset', warn, []) == 0
    assert err.getvalue() == 'dataset.py: look out\n'


# --- lines to paste

@pytest.mark.parametrize('word', ['x', 'My Book', '', "Sancho's", 'a"b', '$HOME', '`id`', 'a\\b', 'wow!', 'año', '*',
                                  '~', '#x', '(a)', ';', '&', '|', '<', '>', 'a\nb', '%PATH%', '-x', '=', '{a,b}', '?'])
def test_quoting_for_shells(word):
    assert shlex.split(quoted(word, windows=False)) == [word]
    text = quoted(word, windows=True)
    assert text == word if re.fullmatch(r'[\w@+=:,./\\-]+', word) else text[0] == text[-1] == '"'
    if os.name == 'posix' and '\n' not in word:
        assert end(begin(['sh', '-c', f'printf %s {quoted(word)}'], cwd=ROOT))[1] == word


def test_lines_can_be_pasted_whatever_started_the_command(here, monkeypatch):
    for argv0, first in (('train.py', 'generate.py'), ('/a b/train.py', '/a b/generate.py'), ('mini_llm', 'generate'),
                         (str(ROOT/'mini_llm'/'__main__.py'), 'generate'), ('pytest', 'generate.py')):
        monkeypatch.setattr(sys, 'argv', [argv0])
        words = shlex.split(command('generate', 'En un lugar', '--run', 'runs/My Book300-1'))
        assert words[-3:] == ['En un lugar', '--run', 'runs/My Book300-1'] and words[-4] == first.replace('/', os.sep)
    monkeypatch.setattr(sys, 'argv', ['x/mini_llm'])
    assert started_as('train')[-1] == 'train' and 'mini_llm' in quietly('train', '--data', 'nowhere')[2]


def test_the_line_after_training_works_as_it_stands(here):
    "As a reader would do it: copy, paste, look"
    Path('My Book.txt').write_text(SENTENCE*60, encoding='utf-8')
    assert quietly('dataset', '--train', '-ed', 'My Book.txt', '-vs', '260')[0] == 0
    code, out, err = end(begin('train.py', '--steps', '1', *SHAPE, cwd=here))
    assert code == 0, err
    line, = (o for o in out.splitlines() if 'generate.py' in o)
    assert shlex.split(line)[-2:] == ['--run', str(Path('runs/My Book260-1'))]
    code, out, err = end(begin(shlex.split(line), cwd=here))
    assert code == 0 and out.startswith('En un lugar de la Mancha') and 'My Book260-1' in err


# --- one command

def test_one_command_for_all(here):
    assert [main(o) for o in ([], ['--help'], ['-h'], ['--version'], ['trian'], ['--what'])] == [2, 0, 0, 0, 2, 2]
    with contextlib.redirect_stderr(io.StringIO()) as err: assert main(['trian']) == 2
    assert err.getvalue() == "mini_llm: there is no command 'trian'; there are dataset, train, generate, export\n"
    for name in NAMES:
        with contextlib.redirect_stdout(io.StringIO()) as out: assert main([name, '--help']) == 0
        assert out.getvalue() == quietly(name, '--help')[1]


def test_modules_that_are_commands(tmp_path):
    for module, args in (('mini_llm', ['train', '--data', 'nowhere']), ('mini_llm.train', ['--data', 'nowhere']),
                         ('mini_llm', ['generate', '--run', 'nowhere']), ('mini_llm.generate', ['--run', 'nowhere'])):
        code, out, err = end(begin([sys.executable, '-m', module, *args], cwd=tmp_path))
        name = args[0] if module == 'mini_llm' else module.partition('.')[2]
        assert code == 2 and err.startswith(f'mini_llm {name}: nowhere') and err.count('\n') == 1


def test_help_is_quick():
    "Nothing that a help does not need: no torch, no pictures"
    for name in ('dataset', 'generate'):
        loaded = python(f'''
import sys
from mini_llm.workshop.commands import main
main(['{name}', '--help'])
print(*{{o.split('.')[0] for o in sys.modules}})''').splitlines()[-1].split()
        assert not {'torch', 'matplotlib', 'IPython'} & set(loaded)


# --- two books of one name

def test_nothing_of_another_book_is_overwritten(here):
    for folder, text in (('d1', SENTENCE), ('d2', 'Otra historia, muy distinta de aquella.\n')):
        Path(folder).mkdir()
        Path(folder, 'novel.txt').write_text(text*60, encoding='utf-8')
    make = ['dataset', '--train', '-vs', '260', '-ed']
    assert quietly(*make, 'd1/novel.txt')[0] == 0
    before = {p: p.read_bytes() for p in [*Path('datasets/novel260').iterdir(),
                                          Path('tokenizer_models/novel260.model')]}
    code, out, err = quietly(*make, 'd2/novel.txt')
    assert code == 2 and 'datasets/novel260/ exists, and holds another text, novel.txt' in err and '--name' in err
    code, out, err = quietly('dataset', '-td', 'd2/novel.txt', '-vs', '260')
    assert code == 2 and 'novel260.model exists, and was learned from another text' in err
    assert quietly('dataset', '-ed', 'd1/novel.txt', '-ts', '.5')[0] == 2 and quietly('dataset', '-ed',
                                                            'd2/novel.txt')[0] == 2
    assert {p: p.read_bytes() for p in before} == before
    assert quietly(*make, 'd1/novel.txt')[0] == 0 and {p: p.read_bytes()
                                                       for p in before} == before    # the same again is no harm
    assert quietly(*make, 'd2/novel.txt', '--name',
                   'other')[0] == 0 and load_tokens('datasets/other260').meta['corpus']['name'] == 'novel.txt'
    Path('tokenizer_models/plain258.model').write_text('my notes')
    assert quietly('dataset', '-td', 'd1/novel.txt', '-vs', '258', '--name',
                   'plain')[0] == 2 and Path('tokenizer_models/plain258.model').read_text() == 'my notes'
    (Path('datasets/novel260')/'val.bin').write_bytes(b'')
    assert quietly(*make, 'd1/novel.txt')[0] == 0 and load_tokens('datasets/novel260')   # damaged: made again


# --- texts

def test_encodings_and_patterns(here):
    Path('old.txt').write_bytes((SENTENCE*60).replace('nombre', 'año').encode('cp1251', 'replace'))
    code, out, err = quietly('dataset', '--train', '-ed', 'old.txt', '-vs', '258', '--encoding', 'cp1251',
                             '--pattern', r'\p{L}+|[^\p{L}]+')
    assert code == 0 and Tokenizer.load('tokenizer_models/old258.model').pattern == r'\p{L}+|[^\p{L}]+'
    assert load_tokens('datasets/old258').meta['tokenizer']['name'] == 'old258.model'
    Path('win.txt').write_bytes(('mañana '*99).encode('cp1252'))
    code, out, err = quietly('dataset', '--train', '-ed', 'win.txt', '-vs', '258')
    assert code == 0 and 'dataset.py: win.txt is read as Windows-1252' in err
    Path('page.txt').write_bytes('Sancho\n'.encode('utf-16'))
    code, out, err = quietly('generate', '--file', 'page.txt', '--max_new_tokens', '1')
    assert code == 0 and out.startswith('Sancho') and 'UTF-16' in err


def test_marks_of_documents_in_a_text(here):
    Path('tales.txt').write_text(f'Once.\n{END_OF_TEXT}\nTwice.\n{END_OF_TEXT}\n'*40)
    code, out, err = quietly('dataset', '--train', '-ed', 'tales.txt', '-vs', '258')
    assert code == 0 and f'tales.txt says {END_OF_TEXT} 80 times' in err and '--endoftext True' in err
    code, out, err = quietly('dataset', '--train', '-ed', 'tales.txt', '-vs', '258', '--endoftext', '--name', 'parted')
    data = load_tokens('datasets/parted258')
    tok = Tokenizer.load(data.path/'tokenizer.model')
    assert (code, err) == (0, '') and (np.concatenate([data.train,
                                                       data.val]) == tok.special_tokens[END_OF_TEXT]).sum() == 80
    assert tok.decode(data.train).startswith(f'Once.\n{END_OF_TEXT}Twice.\n{END_OF_TEXT}Once.')


def test_a_licence_is_not_what_a_model_is_validated_on(here):
    licence = 'Section 1. General Terms of Use and Redistributing Project Gutenberg electronic works. '*200
    Path('pg1.txt').write_text(f'*** START OF THE PROJECT GUTENBERG EBOOK X ***\n{SENTENCE*400}\n'
                               f'*** END OF THE PROJECT GUTENBERG EBOOK X ***\n{licence}', encoding='utf-8')
    code, out, err = quietly('dataset', '--train', '-ed', 'pg1.txt', '-vs', '258')
    assert code == 0 and 'pg1.txt is from Project Gutenberg; its licence' in err
    data = load_tokens('datasets/pg1258')
    text = Tokenizer.load(data.path/'tokenizer.model').decode(data.val)
    assert '***' not in text and 'General Terms' not in text and text.endswith(SENTENCE + END_OF_TEXT)


def test_a_prompt_that_is_no_utf8_is_told_what_helps(here):
    code, out, err = quietly('generate', 'ma\udcf1ana')
    assert code == 2 and "the prompt is not UTF-8: after 'ma' comes the byte 0xf1" in err
    assert '--file FILE' in err and 'OLD' not in err
    code, out, err = quietly('generate', '--stop', '\udcf1', 'x')
    assert code == 2 and 'a stop string' in err


def test_a_conversation_says_where_its_lines_are_kept(here, monkeypatch):
    pytest.importorskip('readline')
    monkeypatch.setenv('XDG_STATE_HOME', str(here/'state'))
    assert str(here/'state'/'mini_llm'/'history') in re.sub(r'\s', '', quietly('generate', '--help')[1])
    monkeypatch.setattr('mini_llm.workshop.commands._terminal', lambda: True)
    monkeypatch.setattr('builtins.input', lambda *args: (_ for _ in ()).throw(EOFError))
    code, out, err = quietly('generate')
    assert code == 0 and str(here/'state'/'mini_llm'/'history') in err


# --- anything at all

FLAGS = sorted({o for n in NAMES for o in re.findall(r'(?<![\w-])--?[a-z_]+', quietly(n, '--help')[1])})
WORDS = ['', '-', '--', 'True', 'false', '0', '1', '-1', '2.5', 'nan', 'inf', '-inf', '1e400', '1e-400', '9'*5000,
         '١٢', 'book.txt', 'nowhere.txt', '.', '..', '/', '/dev/null', 'a\0b',
         'ma\udcf1ana', '\ud83d', '\u2028', '\x1b[2J', 'runs/book260-1', 'datasets/book260',
         'tokenizer_models/book260.model', '=', '--=', '-=x', '---', '%s', '%(prog)s', '{0}', '{dataset}',
         'book.bin', 'latin1.txt', 'float32', 'int8', 'auto', 'nano', 'cp1252', 'utf-16', 'undefined',
         'unicode_escape', '[', '(a+)+$', '\\p{L}+', END_OF_TEXT, '-Hola', 'x'*300]
LIMITS = {'--gutenberg': 0, '--steps': 1, '--minutes': 0, '--n': 2,
          '--max_new_tokens': 3}      # what would take long or ask the network


def some_line(rng, name):
    "Arguments that somebody might type, or a cat"
    flags = [o for o in FLAGS if o.lstrip('-') not in ('resume', 'reproduce', 'gutenberg', 'minutes')]
    line = []
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5))):
        flag = rng.choice(flags) if rng.random() < .85 else rng.choice(('--gutenberg=-1', '--gutenberg=x',
                                                            '--resume=nowhere', '--reproduce=nowhere', '--minutes=x',
                                                            '--minutes=-1'))
        line.append(flag if rng.random() < .7 else flag + '=' + rng.choice(WORDS))
        line += [rng.choice(WORDS) if rng.random() < .9 else ''.join(chr(rng.choice((rng.randrange(128),
                                                            rng.randrange(0x500), rng.randrange(0x110000))))
                                                            for _ in range(rng.randrange(9)))
                 for _ in range(rng.choice((0, 1, 1, 1, 2)))]
    return line


def some_bytes(rng):
    "A file of any kind"
    kind = rng.randrange(8)
    if kind == 0: return rng.randbytes(rng.randrange(60))
    if kind == 1: return ''.join(chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x800),
                                                 rng.randrange(0x10000))))
                                                 for _ in range(rng.randrange(40))).encode('utf-8', 'surrogatepass')
    text = rng.choice((SENTENCE, 'año\n', END_OF_TEXT, '*** START OF THE PROJECT GUTENBERG EBOOK\n',
                       '*** END OF THE PROJECT GUTENBERG', '紅樓夢', '\r\n \r', ''))*rng.randrange(4)
    data = bytearray(text.encode(rng.choice(('utf-8', 'utf-16', 'utf-16-le', 'utf-32', 'cp1252', 'gb18030')),
                                 'replace'))
    for _ in range(rng.choice((0, 0, 1, 3))):
        if data: data[rng.randrange(len(data))] = rng.randrange(256)
    if kind == 2: data = bytearray(rng.choice((b'\x1f\x8b', b'PK\x03\x04', b'%PDF-', b'\xff\xfe', b'\xfe\xff',
                                               b'\xef\xbb\xbf', b'\0'))) + data
    return bytes(data[:rng.randrange(len(data) + 1)] if rng.random() < .3 else data)


def snapshot(folder): return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def try_lines(n, seed, folder, monkeypatch):
    "Any arguments for each command; the work itself is left out, since arguments are what is tried"
    from mini_llm.workshop import commands
    rng, codes = random.Random(seed), {}
    for name in ('_make', '_start_run', '_speak'): monkeypatch.setattr(commands, name,
                                                            lambda *args: (_ for _ in ()).throw(ValueError('left out')))
    monkeypatch.setattr(commands, 'gutenberg', lambda *args, **kwargs: (_ for _ in ()).throw(OSError('no network')))
    before = snapshot(folder)
    for i in range(n):
        name, line = rng.choice(NAMES), None
        line = some_line(rng, name)
        try: code, out, err = quietly(name, *line, stdin=b'Sancho')
        except BaseException as e: raise AssertionError(f'{name} {line}: {e!r}') from e
        assert code in (0, 2), (name, line, code)
        assert 'Traceback' not in err and not re.search('[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]',
                                                        out + err), (name, line, err)
        assert code == 0 or err.strip() or not line, (name, line)
        codes[name, code] = codes.get((name, code), 0) + 1
        if i % 1000 == 999: assert snapshot(folder) == before, (name, line)
    assert snapshot(folder) == before
    return codes


def try_texts(n, seed, folder):
    "Files of any bytes, through everything that reads a text"
    import warnings
    from mini_llm.workshop.corpus import normalise, read_text, without_licence
    rng, counts, path = random.Random(seed), dict(read=0, refused=0), folder/'any.txt'
    for i in range(n):
        data, encoding = some_bytes(rng), rng.choice((None, None, None, 'utf-8', 'cp1252', 'utf-16', 'klingon'))
        path.write_bytes(data)
        with warnings.catch_warnings(record=True):
            warnings.simplefilter('always')
            try:
                text = read_text(path, encoding)
                clean = normalise(without_licence(text, 'x'))
                clean.encode()
                assert '\0' not in text and '\r' not in text and normalise(clean) == clean
                counts['read'] += 1
            except ValueError as e:
                assert str(e).startswith(('x ', str(path))) and len(str(e)) < 500, (data, encoding, e)
                counts['refused'] += 1
            except BaseException as e: raise AssertionError(f'{data!r} as {encoding}: {e!r}') from e
    return counts


def test_any_arguments(here, monkeypatch):
    (here/'latin1.txt').write_bytes('año'.encode('latin1'))
    (here/'book.bin').write_bytes(bytes(range(256)))
    print('arguments tried:', try_lines(1_500, 0, here, monkeypatch))


def test_any_texts(tmp_path): print('texts tried:', try_texts(1_500, 0, tmp_path))


def test_any_texts_through_the_whole_command(here):
    "Token files are whole or absent, and what was there stays"
    rng, before, codes = random.Random(0), snapshot(here), {0: 0, 2: 0}
    for i in range(40):
        Path('any.txt').write_bytes(some_bytes(rng))
        code, out, err = quietly('dataset', '--train', '-ed', 'any.txt', '-vs', '260', '--name', f'any{i}-')
        codes[code] += 1
        made = list(Path('datasets').glob(f'any{i}-*'))
        assert (code == 0) == bool(made) and all(load_tokens(o) for o in made), (code, err)
    assert {p: d for p, d in snapshot(here).items() if p in before} == before and not list(here.rglob('.*.tmp'))
    print('whole commands tried:', codes)


@pytest.mark.slow
@pytest.mark.timeout(3600*3)
def test_a_million_arguments_and_texts(here, tmp_path, monkeypatch):
    (here/'latin1.txt').write_bytes('año'.encode('latin1'))
    (here/'book.bin').write_bytes(bytes(range(256)))
    print('texts tried:', try_texts(1_000_000, 1, tmp_path))
    (tmp_path/'any.txt').unlink()
    print('arguments tried:', try_lines(1_000_000, 1, here, monkeypatch))
