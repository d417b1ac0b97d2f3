"Commands of the project, started as a user starts them: in a folder of their own, and with a deadline for every wait"
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEADLINE = 240      # seconds that a command may take on a busy machine
TINY = dict(n_layer=1, n_head=2, n_embd=32, context_length=32, batch_size=4, accumulate=2, threads=1, dtype='float32',
            dropout=.2)

# texts that have broken what shows them: blanks, markup, half letters, other scripts, signs that cannot be seen
EVIL = [
    '',
    ' ',
    '\n\n',
    ' \n \n',
    '\t\r\n',
    '<script>alert(1)</script>',
    '"\'><img src=x onerror=alert(1)>',
    '&lt;&amp;',
    'a·b|c',
    'a|b',
    '\\xc3',
    'ñandú',
    '👩‍👩‍👧‍👦',
    'لا إله',
    '我读书',
    '\x00\x1b[31m\x7f',
    '\u202eevil\u00a0',
    'razo\u0301n',
    '<|endoftext|>',
    '</span></div><style>*{}',
]


def small(**changes):
    "The flags of a model that trains in a moment, the same on every machine"
    return [o for k, v in (TINY | changes).items() for o in (f'--{k}', str(v))]


def begin(what, *args, cwd, **env):
    "Start a script of the project (`train.py`), a piece of Python, or a whole command given as a list"
    if isinstance(what, list): head = what
    else: head = [sys.executable, *([ROOT/what] if what.endswith('.py') else ['-c', what])]
    return subprocess.Popen([*head, *map(str, args)], cwd=cwd, text=True, encoding='utf-8', stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=os.environ | {'PYTHONUTF8': '1'} | env)


def end(process, seconds=DEADLINE):
    "Wait for a process to end by itself: exit code, standard output, standard error"
    try: out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f'still running after {seconds} s: {process.args}') from None
    return process.returncode, out, err


def stop(process):
    "End a process that a test has left, and those that it has started, if it passes the word on"
    if process.poll() is None: process.terminate()
    try: process.communicate(timeout=15)
    except subprocess.TimeoutExpired: process.kill()


def python(code, cwd=None, **env):
    "What a fresh Python prints"
    status, out, err = end(begin([sys.executable, '-c', code], cwd=cwd, **env))
    assert status == 0, err
    return out.strip()


def wait_for_steps(path, n, process, seconds=DEADLINE):
    "Wait until a run has done at least `n` steps"
    file, late = path/'metrics.jsonl', time.monotonic() + seconds
    while process.poll() is None and not (file.exists() and file.read_text('utf-8').count('\n') >= n):
        assert time.monotonic() < late, f'fewer than {n} steps in {seconds} s'
        time.sleep(.005)
    assert process.poll() is None, process.communicate()


def assert_same(a, b):
    "Two runs with the same weights, byte for byte, the same state of the optimizers and the same story of each step"
    from mini_llm.engine.files import sha256
    from mini_llm.train import load_state
    for name in 'model.safetensors', 'best/model.safetensors': assert sha256(a.path/name) == sha256(b.path/name), name
    states = [load_state(r.path/'state.safetensors')[0] for r in (a, b)]
    assert states[0].keys() == states[1].keys() and all(t.equal(states[1][k]) for k, t in states[0].items())
    but_for_time = lambda d: {k: v for k, v in d.items() if k != 'seconds'}
    assert list(map(but_for_time, a.metrics)) == list(map(but_for_time, b.metrics))
    assert but_for_time(a.result) == but_for_time(b.result)
    assert not list(a.path.rglob('.*.tmp'))
