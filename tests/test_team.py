"Training by several processes, as torchrun starts them: the same run, whoever does it, and an end with a message"
import os
import signal
import subprocess
import sys

import pytest
from commands import ROOT, small, wait_for_steps

from mini_llm.workshop.run import Run
from mini_llm.train import load_state

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='signals and torchrun as on Unix')
SMALL = small(n_layer=2, batch_size=5, threads=2, eval_every=10)
ALONE = 'train.py'
PAIR = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone', ROOT/'train.py']


def assert_close(a, b):
    "The same curves, within the tolerance of float32"
    assert [m['step'] for m in a.metrics] == [m['step'] for m in b.metrics]
    for k in 'loss', 'grad_norm', 'val_bits':
        x, y = ([m[k] for m in r.metrics if k in m] for r in (a, b))
        assert x == pytest.approx(y, rel=1e-3), k


def workers(process):
    "The processes that torchrun has started"
    out = subprocess.run(['ps', '-o', 'pid=', '--ppid', str(process.pid)], capture_output=True, text=True).stdout
    return list(map(int, out.split()))


def test_two_processes_train_the_same_run_as_one(finish, tokens, tmp_path):
    for how in ALONE, PAIR:
        code, out, err = finish(how, '--data', tokens, '--steps', 30, *SMALL)
        assert code == 0, err
        assert out.count('bits per byte after 30 steps') == 1       # one of them talks
    a, b = (Run(tmp_path/'runs'/f'small300-{i}') for i in (1, 2))
    assert_close(a, b)
    assert b.settings['machine']['threads'] == 2


@pytest.mark.parametrize('number', [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_run_goes_on_with_another_number_of_processes(start, finish, tokens, tmp_path, number):
    code, out, err = finish(ALONE, '--data', tokens, '--steps', 40, *SMALL)
    assert code == 0, err
    p = start(PAIR, '--data', tokens, '--steps', 40, *SMALL)
    run = tmp_path/'runs'/'small300-2'
    wait_for_steps(run, 12, p)
    p.send_signal(number)
    out, err = p.communicate(timeout=60)
    assert f'stopped after step {len(Run(run).metrics)} of 40, and saved' in out
    assert load_state(run/'state.safetensors')[1]['step'] == len(Run(run).metrics)
    code, out, err = finish(ALONE, '--resume', run)
    assert code == 0, err
    assert_close(Run(run), Run(tmp_path/'runs'/'small300-1'))


@pytest.mark.parametrize('which', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_dies_ends_the_others_with_a_message(start, finish, tokens, tmp_path, which):
    p = start(PAIR, '--data', tokens, '--steps', 100_000, *SMALL, '--checkpoint_seconds', .2)
    run = tmp_path/'runs'/'small300-1'
    wait_for_steps(run, 12, p)
    os.kill(workers(p)[which], signal.SIGKILL)
    out, err = p.communicate(timeout=60)
    assert p.returncode != 0 and err.count('train.py: another process of this run has ended') == 1, err
    assert load_state(run/'state.safetensors')[1]['step'] >= 10 and Run(run).result is None


def test_a_budget_in_minutes_is_decided_by_one(finish, tokens, tmp_path):
    code, out, err = finish(PAIR, '--data', tokens, '--minutes', .05, *SMALL, '--checkpoint_seconds', .5)
    assert code == 0, err
    run = Run(tmp_path/'runs'/'small300-1')
    assert run.result['plans'][-1][1] == run.result['steps'] == len(run.metrics)


def test_wrong_input_is_told_once(finish, tokens):
    code, out, err = finish(PAIR, '--data', tokens, '--steps', 5, *SMALL, '--batch_size', 1)
    assert code != 0 and err.count('batch_size=1 cannot be shared by 2 processes') == 1
