"Runs that end at the worst moment: killed anywhere, out of disk, unread; what they leave goes on to the same end"
import json
import os
import random
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import time

import pytest
from commands import assert_same, python, small

fcntl, pty, termios = map(pytest.importorskip, ('fcntl', 'pty', 'termios'))    # the worst moments are those of Unix

from mini_llm.bpe import END_OF_TEXT, Tokenizer
from mini_llm.engine.files import sha256
from mini_llm.workshop.run import Run
from mini_llm.train import load_state

SMALL = small(steps=24, eval_every=6, checkpoint_seconds=0)

# runs train.py with one function replaced by one that ends the process, or fails, at its n-th call
SABOTAGE = """
import os, signal, sys
from mini_llm.engine import backprop, checkpoint, files
from mini_llm.workshop import plan
from mini_llm import train
how, n, *args = sys.argv[1:]
calls = 0
def at(object, name, act):
    plain = getattr(object, name)
    def counted(*args, **kwargs):
        global calls
        calls += 1
        return act(plain, *args, **kwargs) if calls == int(n) else plain(*args, **kwargs)
    setattr(object, name, counted)
def kill(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
def after(plain, *args, **kwargs): plain(*args, **kwargs); kill()
def half(plain, path, data):
    with files.atomic_open(path, 'w' if isinstance(data, str) else 'wb') as f:
        f.write(data[:len(data)//2]); f.flush(); kill()
if how == 'backward': at(backprop.Backprop, 'backward', after)   # between the parts of a batch, for an odd n
if how == 'write': at(checkpoint, 'write_atomic', half)               # in the middle of a file
if how == 'sync': at(os, 'fsync', kill)                          # a file is there, but has not got its name
if how == 'replace': at(os, 'replace', after)                    # it has just got it
if how == 'step': at(train.Muon, 'step', after)                  # one optimizer has moved, the other has not
raise SystemExit(train.main(args))
"""
CALLS = dict(backward=40, write=8, sync=25, replace=20, step=20)    # there are at least so many in a run


@pytest.fixture
def command(finish):
    "Run train.py, or a script in its place, to its end: exit code, standard output, standard error"
    def run(*args, script='train.py'): return finish(script, *args)
    return run


@pytest.fixture
def reference(command, tokens, tmp_path):
    "A run that nobody disturbed"
    code, out, err = command('--data', tokens, *SMALL, '--runs', 'calm')
    assert code == 0, err
    return Run(tmp_path/'calm'/'small300-1')


def killed_and_resumed(points, command, tokens, tmp_path):
    "A run that is killed at each of these points in turn; how often it was, and the run"
    run, kills = tmp_path/'runs'/'small300-1', 0
    for how, n in points:
        args = ['--resume', run] if (run/'train.json').exists() else ['--data', tokens, *SMALL]
        code, out, err = command(how, n, *args, script=SABOTAGE)
        if code == 0: break
        assert code == -signal.SIGKILL, err
        kills += 1
        if not (run/'train.json').exists(): shutil.rmtree(run)    # killed before it was a run
    else:
        code, out, err = command('--resume', run)
        assert code == 0, err
    return kills, Run(run)


def test_killed_within_a_batch_a_file_and_an_update(reference, command, tokens, tmp_path):
    kills, run = killed_and_resumed([('backward', 13), ('write', 7), ('step', 5)], command, tokens, tmp_path)
    assert kills == 3
    assert_same(run, reference)


def test_killed_after_each_of_the_last_files(reference, command, tokens, tmp_path):
    "Also between the files of the last checkpoint: a run that calls itself finished holds the weights that it reports"
    counting = SABOTAGE.replace('raise SystemExit(train.main(args))', 'train.main(args); print("calls", calls)')
    code, out, err = command('replace', 10**9, '--data', tokens, *SMALL, '--runs', 'counted', script=counting)
    total, run = int(out.split('calls ')[1]), tmp_path/'runs'/'small300-1'
    for n in range(total-7, total+1):       # card and picture come before the result
        code, out, err = command('replace', n, '--data', tokens, *SMALL, script=SABOTAGE)
        assert code == -signal.SIGKILL, err
        if not Run(run).result: assert command('--resume', run)[0] == 0
        assert_same(Run(run), reference)
        shutil.rmtree(run)


@pytest.mark.slow
def test_killed_anywhere(reference, command, tokens, tmp_path):
    rng, total = random.Random(0), 0
    while total < 20:
        points = [(how := rng.choice(list(CALLS)), rng.randint(1, CALLS[how]//3)) for _ in range(6)]
        kills, run = killed_and_resumed(points, command, tokens, tmp_path)
        total += kills
        assert_same(run, reference)
        shutil.rmtree(tmp_path/'runs')


def test_no_space_left(reference, command, tokens, tmp_path):
    code = SABOTAGE.replace("how == 'sync': at(os, 'fsync', kill)", "how == 'sync': at(os, 'fsync', full)").replace(
        'def kill', 'def full(*args): raise OSError(28, "No space left on device")\ndef kill')
    code, out, err = command('sync', 20, '--data', tokens, *SMALL, script=code)
    run = Run(tmp_path/'runs'/'small300-1')
    assert code == 2 and 'No space left on device; what was saved before stands, and `' in err
    assert 'train.py --resume runs/small300-1`' in err
    assert 'Traceback' not in err and not list(run.path.rglob('.*.tmp'))
    assert load_state(run.path/'state.safetensors')[1]['step'] >= 1
    code, out, err = command('--resume', run.path)
    assert code == 0, err
    assert_same(run, reference)


@pytest.fixture
def disk(tmp_path):
    "A real disk of one megabyte"
    path = tmp_path/'disk'
    path.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', path]
    made = shutil.which('mount') and subprocess.run(mount, capture_output=True, timeout=60)
    if not made or made.returncode: pytest.skip('no right to mount a small disk')
    yield path
    subprocess.run(['umount', '-l', path], timeout=60)


def test_a_disk_that_is_too_small_is_noticed_before_the_start(command, tokens, disk):
    code, out, err = command('--data', tokens, '--preset', 'mini', '--steps', 5, '--runs', disk)
    assert code == 2 and re.search(r'checkpoints need up to \d+ MB, and the disk of .* has 1 left', err)
    assert not list(disk.iterdir())


def test_a_disk_that_fills_up_keeps_the_checkpoint(command, tokens, disk, reference):
    fill = lambda free: (disk/'other').write_bytes(bytes(shutil.disk_usage(disk).free - free))
    code, out, err = command('backward', 20, '--data', tokens, *SMALL, '--runs', disk, script=SABOTAGE)
    assert code == -signal.SIGKILL, err
    run, before = Run(disk/'small300-1'), sha256(disk/'small300-1'/'state.safetensors')
    fill(8192)
    code, out, err = command('--resume', run.path)
    assert code == 2 and 'No space left on device; what was saved' in err and 'Traceback' not in err
    assert sha256(run.path/'state.safetensors') == before and not list(run.path.rglob('.*.tmp'))
    (disk/'other').unlink()
    code, out, err = command('--resume', run.path)
    assert code == 0, err
    assert_same(run, reference)


def test_a_folder_that_cannot_be_written(command, tokens, tmp_path):
    (tmp_path/'file').write_text('in the way')
    code, out, err = command('--data', tokens, *SMALL, '--runs', 'file/runs')
    assert code == 2 and err.startswith('train.py: ') and 'Not a directory' in err and 'Traceback' not in err


def test_too_little_memory_and_text(command, tokens, tmp_path):
    code, out, err = command('--data', tokens, *SMALL, '--n_ff', 200_000, '--n_layer', 1000)
    assert code == 2 and 'of memory, and this machine has' in err and 'smaller preset' in err
    code, out, err = command('--data', tokens, *SMALL, '--batch_size', 5000)
    assert code == 2 and 'training tokens are too few for that: only 554 windows of 32' in err
    assert not (tmp_path/'runs').exists()


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_the_estimate_of_memory_is_near_what_is_used():
    script = """if 1:
        import torch
        from mini_llm.train import *
        from mini_llm.gpt import GPT, GPTConfig
        cfg = GPTConfig(vocab_size=2048, n_layer=4, n_head=4, n_embd=256, context_length=128)
        machine = Device(threads=1)
        def once(cfg, n):
            model = GPT(cfg)
            grads, optimizers = gradients(model, machine, n), make_optimizers(model)
            ids = torch.zeros(n, cfg.context_length, dtype=torch.int64)
            for _ in range(2): train_step(grads, optimizers, [(ids, ids)])
        once(GPTConfig(vocab_size=256, n_layer=1, n_head=2, n_embd=32, context_length=16), 1)
        peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])
        before = peak()
        once(cfg, 16)
        print((peak()-before)*1024 / memory_needed(cfg, 16, machine))"""
    assert .6 < float(python(script)) < 1.3


def test_the_runs_own_tokenizer_was_replaced(command, tokens, reference):
    (reference.path/'result.json').unlink()
    Tokenizer.train('otra cosa', 256, special_tokens=[END_OF_TEXT]).save(reference.path/'tokenizer.bpe')
    code, out, err = command('--resume', reference.path)
    assert code == 2 and 'is not the tokenizer this run was started with; copy it back from' in err


def test_nobody_reads(root, tokens, tmp_path):
    "`train.py | head -1`: the work is done all the same"
    p = subprocess.Popen([sys.executable, root/'train.py', '--data', tokens, *SMALL], cwd=tmp_path,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    p.stdout.readline()
    p.stdout.close()
    err = p.stderr.read()
    assert p.wait(timeout=60) == 0 and not err, err
    assert Run(tmp_path/'runs'/'small300-1').result['steps'] == 24


def test_ctrl_c_while_it_gets_ready(command, tokens, tmp_path):
    code, out, err = command('', 0, '--data', tokens, *SMALL, script=SABOTAGE.replace('raise SystemExit',
        'plan.load_tokens = lambda *args: signal.raise_signal(signal.SIGINT)\nraise SystemExit'))
    assert code == 130 and err.strip().endswith('stopped before anything was to be saved')


def test_a_terminal_of_80_columns(root, tokens, tmp_path):
    "One line with loss, bits per byte, speed and time left, not cut"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
    many = '--steps', '400', '--checkpoint_seconds', '60'
    p = subprocess.Popen([sys.executable, root/'train.py', '--data', tokens, *SMALL, *many],
                         cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    out, end = b'', time.monotonic() + 100
    while time.monotonic() < end:
        try: out += os.read(ours, 4096) if select.select([ours], [], [], .1)[0] else b''
        except OSError: break
        if p.poll() is not None and not select.select([ours], [], [], .1)[0]: break
    assert p.wait(timeout=60) == 0
    lines = [o for o in re.split('[\r\n]|\x1b\\[A', out.decode()) if 'val' in o]
    assert lines and all(len(o) <= 80 for o in lines)
    form = r'\d+%\|.*\| \d\d:\d\d left, loss \d\.\d\d, \d\.\d\d \(val \d\.\d\d\) bits/byte, [\d.]+k? tok/s'
    assert re.fullmatch(form, lines[-1].strip()), lines[-1]


FAKE = """
import json, sys, types
from mini_llm import train
class SummaryWriter:
    def __init__(self, folder, purge_step): self.rows = [(str(folder), purge_step)]
    def add_scalar(self, *row): self.rows.append(row)
    add_text = add_scalar
    def close(self): open('board.json', 'w').write(json.dumps(self.rows))
fake = types.SimpleNamespace(SummaryWriter=SummaryWriter)
sys.modules['torch.utils.tensorboard'] = fake if sys.argv.pop(1) == 'there' else None
raise SystemExit(train.main())
"""

def test_tensorboard(command, tokens, tmp_path):
    code, out, err = command('missing', '--data', tokens, *SMALL, '--tensorboard', script=FAKE)
    assert code == 2 and 'pip install tensorboard' in err and not (tmp_path/'runs').exists()
    code, out, err = command('there', '--data', tokens, *SMALL, '--tensorboard', script=FAKE)
    assert code == 0, err
    rows = json.loads((tmp_path/'board.json').read_text())
    assert rows[0] == ['runs/small300-1/tensorboard', 1]
    metrics = Run(tmp_path/'runs'/'small300-1').metrics
    assert [r for r in rows[1:] if r[0] == 'loss'] == [['loss', m['loss'], m['step']] for m in metrics]
    assert sum(r[0] == 'sample' for r in rows[1:]) == 5     # after the first step and at four evaluations


def test_patience(command, tokens, tmp_path):
    code, out, err = command('--data', tokens, *SMALL, '--learning_rate', 0, '--adam_learning_rate', 0, '--patience', 1)
    assert code == 0, err
    result = Run(tmp_path/'runs'/'small300-1').result
    assert (result['steps'], result['best']['step']) == (12, 6)
    files = sorted(p.name for p in (tmp_path/'runs'/'small300-1').rglob('*.safetensors'))
    assert files == ['model.safetensors']*2 + ['state.safetensors']
