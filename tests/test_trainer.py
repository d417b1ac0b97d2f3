"Runs inside one process: ended between any two files, paused, moved, short of memory, trained by autograd"
import dataclasses
import json
import os
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import begin, end, small, wait_for_steps

from mini_llm import train as T
from mini_llm.engine import files
from mini_llm.engine.device import Device
from mini_llm.engine.files import sha256
from mini_llm.gpt import GPT, GPTConfig
from mini_llm.train import Autograd, TrainConfig, Trainer, evaluate, load_state, new_run, reproduce, resume, train
from mini_llm.workshop import plan, settings
from mini_llm.workshop.dataset import load_tokens

SHAPE = dict(n_layer=1, n_head=2, n_embd=32, context_length=32, dropout=.2)


@pytest.fixture
def cfg(tokens, tmp_path):
    return TrainConfig(tokens, steps=12, batch_size=4, eval_every=4, threads=1, dtype='float32', warmup=2,
                       runs=tmp_path/'runs')


def shape(cfg): return GPTConfig(load_tokens(cfg.data).meta['n_vocab'], **SHAPE)

def go(cfg): return train(cfg, shape(cfg), progress=False)

def weights(run): return sha256(run.path/'model.safetensors'), sha256(run.path/'best'/'model.safetensors')

def told(run):
    "What a finished run says, except for the time it took"
    return {k: v for k, v in run.result.items() if k != 'seconds'}


class Killed(BaseException): pass


def holds_what_it_reports(run, cfg):
    "Every reader gets the weights that the result speaks of: the last ones, and the best"
    data, r = load_tokens(cfg.data), run.result
    bits = lambda folder: evaluate(GPT.load(folder), data.val, data.meta['val']['bytes'])
    assert bits(run.path) == pytest.approx(r['bits_per_byte'], abs=1e-4)
    assert bits(run.path/'best') == pytest.approx(r['best']['bits_per_byte'], abs=1e-4)
    state, model = load_state(run.path/'state.safetensors')[0], GPT.load(run.path).state_dict()
    assert all(state[f'model.{k}'].equal(v) for k, v in model.items())


FULL = partial(OSError, 28, 'No space left on device')

@pytest.mark.parametrize('error', [Killed, FULL], ids=['killed', 'full disk'])
def test_ended_before_or_after_each_file_of_the_last_checkpoint(cfg, monkeypatch, error):
    calm = go(cfg)
    real, names = os.replace, []
    with monkeypatch.context() as m:
        m.setattr(files.os, 'replace', lambda a, b: (real(a, b), names.append(Path(b).name))[0])
        go(cfg)
    tail = names[-7:]
    assert tail[-1] == 'result.json' and 'state.safetensors' in tail and tail.count('model.safetensors') >= 1
    for at in range(len(names)-7, len(names)):
        for after in (False, True):
            done = [0]
            def replace(a, b):
                if done[0] == at and not after: raise error()
                real(a, b)
                done[0] += 1
                if done[0] == at+1 and after: raise error()
            with monkeypatch.context() as m:
                m.setattr(files.os, 'replace', replace)
                with pytest.raises((Killed, OSError)): go(cfg)
            run = T.Run(max(Path(cfg.runs).iterdir(), key=lambda p: int(p.name.rpartition('-')[2])))
            if not run.result: run = resume(run.path, progress=False)
            assert (weights(run), told(run)) == (weights(calm), told(calm)), (at, after)
            holds_what_it_reports(run, cfg)
            shutil.rmtree(run.path)


def test_a_stale_model_beside_a_finished_state_cannot_be(cfg, monkeypatch):
    "The case of old: the last model.safetensors could not be written, and resume called the run finished"
    calm, plain, left = go(cfg), GPT.save, [5]
    def save(self, folder):
        left[0] -= 1
        if left[0] < 0: raise OSError(28, 'No space left on device', str(folder))
        return plain(self, folder)
    monkeypatch.setattr(GPT, 'save', save)
    with pytest.raises(OSError, match='what was saved before stands'): go(cfg)
    monkeypatch.setattr(GPT, 'save', plain)
    run = resume(Path(cfg.runs)/'small300-2', progress=False)
    assert weights(run) == weights(calm)
    holds_what_it_reports(run, cfg)


class Clock:
    "A clock that jumps"
    def __init__(self): self.ahead = 0.
    def monotonic(self): return time.monotonic() + self.ahead


@pytest.mark.parametrize('where', ['step', 'validate', 'checkpoint'])
@pytest.mark.parametrize('at', [1, 20])
def test_a_pause_of_an_hour_costs_nothing(cfg, monkeypatch, where, at):
    clock, done, plain = Clock(), [0], getattr(Trainer, where)
    def paused(self, *args):
        res = plain_call(self, *args)
        return res
    def plain_call(self, *args):
        done[0] += 1
        if done[0] == (at if where == 'step' else 2): clock.ahead += 3600
        return plain(self, *args)
    monkeypatch.setattr(Trainer, where, paused)
    monkeypatch.setattr(plan, 'time', SimpleNamespace(monotonic=clock.monotonic))
    minutes = dataclasses.replace(cfg, steps=None, minutes=.04, checkpoint_seconds=.3, eval_every=None)
    run = go(minutes)
    assert clock.ahead == 3600
    assert run.metrics[-1]['lr'] < .2, 'the learning rate has fallen at the end'
    assert run.result['steps'] > 30 and run.result['seconds'] < 30
    monkeypatch.setattr(Trainer, where, plain)
    again = reproduce(run.path, progress=False)     # as many steps, undisturbed
    assert weights(again) == weights(run)


def test_minutes_only_decide_how_many_steps_there_are(cfg):
    "A run of minutes is the run of as many steps"
    run = go(dataclasses.replace(cfg, steps=None, minutes=.03, eval_every=50, weight_decay=.1))
    if any(at >= .6*n for at, n in run.result['plans'][1:]): pytest.skip('so busy a machine that the fall was bent')
    same = go(dataclasses.replace(cfg, steps=run.result['steps'], eval_every=50, weight_decay=.1))
    assert weights(same)[0] == weights(run)[0]


def test_a_run_is_resumed_and_repeated_from_another_folder_and_after_a_move(cfg, tokens, tmp_path, monkeypatch):
    home = tmp_path/'project'
    shutil.copytree(tokens, home/'datasets'/'small300')
    (home/'nbs').mkdir()
    monkeypatch.chdir(home/'nbs')
    here = dataclasses.replace(cfg, data='../datasets/small300', runs='../runs')
    go(here)
    trainer = Trainer(new_run(here, shape(here)))
    (trainer.run.path/'result.json').unlink(missing_ok=True)
    trainer.budget.plan(0, trainer.team)
    trainer.checkpoint()
    moved = tmp_path/'moved'
    monkeypatch.chdir(tmp_path)
    shutil.move(home, moved)
    run = resume('moved/runs/small300-2', progress=False)
    assert weights(run) == weights(T.Run('moved/runs/small300-1'))
    again = reproduce('moved/runs/small300-1', progress=False)
    assert again.path == Path('moved/runs/small300-3') and weights(again) == weights(run)
    shutil.rmtree(moved/'datasets')
    (run.path/'result.json').unlink()
    with pytest.raises(ValueError, match='recorded as ../datasets/small300, which is looked for from'): resume(run.path)


@pytest.mark.parametrize('device', ['cuda', 'mps'])
def test_a_device_that_is_not_here_is_named(cfg, device):
    if device in (torch.accelerator.current_accelerator() or SimpleNamespace(type='')).type: pytest.skip('it is here')
    run = new_run(cfg, shape(cfg))
    file = run.path/'train.json'
    kept = json.loads(file.read_text())
    kept['machine']['device'] = device
    file.write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=f"device '{device}' is not here"): resume(run.path)


def test_a_run_that_ended_by_patience_is_repeated_any_number_of_times(cfg):
    still = dict(learning_rate=0, adam_learning_rate=0, patience=2)
    idle = dataclasses.replace(cfg, steps=20, batch_size=2, eval_every=2, **still)
    a = go(idle)
    b = reproduce(a.path, progress=False)
    c = reproduce(b.path, progress=False)
    assert a.result['plans'] == b.result['plans'] == c.result['plans'] == [[0, 20], [6, 6]]


def test_a_whole_run_by_autograd_as_on_a_gpu(cfg, monkeypatch):
    "Train, end in the middle of an update, resume, reproduce"
    monkeypatch.setattr(T, 'gradients', Autograd)
    calm = go(cfg)
    assert isinstance(Trainer(calm).grads, Autograd)
    plain, left = T.Muon.step, [8]
    def step(self, *args):
        left[0] -= 1
        if not left[0]: raise Killed()
        return plain(self, *args)
    monkeypatch.setattr(T.Muon, 'step', step)
    with pytest.raises(Killed): go(dataclasses.replace(cfg, checkpoint_seconds=0))
    monkeypatch.setattr(T.Muon, 'step', plain)
    run = resume(Path(cfg.runs)/'small300-2', progress=False)
    assert run.result['steps'] == 12 and weights(run) == weights(calm)
    assert weights(reproduce(run.path, progress=False)) == weights(calm)
    holds_what_it_reports(run, cfg)


def test_torch_has_its_threads_again_after_every_call(cfg):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run = go(cfg)
        assert torch.get_num_threads() == 2
        T.step_rate(shape(cfg), batch_size=2, seconds=.01, device=Device(threads=2))
        reproduce(run.path, progress=False)
        wild = dict(learning_rate=1e30, adam_learning_rate=1e30, clip=1e30)
        with pytest.raises(T.Diverged): go(dataclasses.replace(cfg, **wild))
        assert torch.get_num_threads() == 2
    finally: torch.set_num_threads(before)


def test_dealt_cards_are_read_only_and_unlike_the_dropout_of_any_step():
    with pytest.raises(ValueError, match='read-only'): T._deal(10, 4, 0, 0)[0] = 1
    first = lambda *key: np.random.default_rng(key).integers(2**63)
    assert len({first(3, 0, k) for k in range(50)} | {first(3, 1, k) for k in range(50)}) == 100


def book(n):
    "Token files of `n` training tokens, as far as a plan cares"
    sizes = dict(train=dict(ids=n, bytes=3*n), val=dict(ids=n//9, bytes=n//3))
    ids = {k: np.broadcast_to(np.uint16(7), v['ids']) for k, v in sizes.items()}
    return SimpleNamespace(path=Path('book'), meta=dict(n_vocab=4096, reference_bits=dict(bigram=2.5), **sizes), **ids)


@pytest.mark.parametrize('gb', [.5, 2, 8, 16])
@pytest.mark.parametrize('hours', [.1, 10, 24])
@pytest.mark.parametrize('processes', [1, 2])
def test_what_the_plan_chooses_fits_into_memory(monkeypatch, tmp_path, gb, hours, processes):
    "A fast machine with little memory: the batch that is chosen is the one that is checked"
    device, data, team = Device('cpu', 'bfloat16', 2), book(10_000_000), T.Team(0, processes, processes)
    monkeypatch.setattr(settings, 'memory_here', lambda device: gb*2**30)
    check = partial(settings.check_fit, data=data, device=device, team=team, runs=tmp_path)
    rate = lambda shape, n: 9e11/(6*12*shape.n_layer*shape.n_embd**2)
    chosen, size, made = plan._settle(TrainConfig('x', minutes=60*hours), None, data, rate, partial(plan._fits, check))
    check(size, chosen.batch_size)
    assert processes * T.memory_needed(size, -(-chosen.batch_size//processes), device) <= gb*2**30
    assert made.batch_size == chosen.batch_size and made.accumulate == chosen.accumulate >= 1


def test_a_batch_that_does_not_fit_is_accumulated(monkeypatch, cfg):
    weights = sum(p.nbytes for p in _meta(shape(cfg)).parameters())
    need = lambda n: settings.memory_needed(shape(cfg), n, Device(threads=1)) + 3*weights
    monkeypatch.setattr(plan, 'memory_here', lambda device: need(5))
    open_ = dataclasses.replace(cfg, batch_size=None)
    run = go(open_)
    assert (run.settings['train']['batch_size'], run.settings['train']['accumulate']) == (4, 4)
    with pytest.raises(ValueError, match='of memory, and this machine has'): go(dataclasses.replace(cfg, batch_size=16))


def _meta(shape):
    with torch.device('meta'): return GPT(shape)


def test_settings_are_not_overwritten_by_what_follows_from_them(cfg):
    assert dataclasses.replace(TrainConfig('x'), steps=10).steps == 10
    assert TrainConfig('x').minutes is None
    run = new_run(dataclasses.replace(cfg, steps=None), shape(cfg), rate=lambda *args: 1e6)
    assert run.settings['train']['minutes'] == 3
    kept = TrainConfig(**run.settings['train'])
    assert dataclasses.replace(kept, seed=1).batch_size == 4


def test_dropout_follows_from_the_epochs_unless_it_is_given(cfg):
    few = new_run(dataclasses.replace(cfg, steps=1), dict(n_layer=1))
    many = new_run(dataclasses.replace(cfg, steps=20_000), dict(n_layer=1))
    mine = new_run(dataclasses.replace(cfg, steps=20_000), dict(n_layer=1, dropout=.05))
    dropouts = [json.loads((r.path/'config.json').read_text())['mini_llm']['dropout'] for r in (few, many, mine)]
    assert dropouts == [0, .4, .05]


LIMITED = """
import resource, sys
from mini_llm import train
size = int(open('/proc/self/status').read().split('VmSize:')[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[1])*2**20,)*2)
raise SystemExit(train.main(sys.argv[2:]))
"""

@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('mb', [100, 340, 600])
def test_a_real_limit_of_memory(tokens, tmp_path, mb):
    "There is room and it is kept, or one line says how much there is"
    args = mb, '--data', tokens, '--minutes', .05, '--threads', 1
    code, out, err = end(begin(LIMITED, *args, cwd=tmp_path))
    assert 'Traceback' not in err and (code == 0 or code == 2 and 'MB of memory, and this machine has' in err), err
    assert code == (2 if mb == 100 else 0), err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='signals as on Unix')
def test_a_process_that_is_stopped_for_longer_than_its_minutes_still_has_its_fall(tokens, tmp_path):
    p = begin('train.py', '--data', tokens, '--minutes', .2, *small(), cwd=tmp_path)
    wait_for_steps(tmp_path/'runs'/'small300-1', 100, p)
    p.send_signal(signal.SIGSTOP)
    time.sleep(20)
    p.send_signal(signal.SIGCONT)
    assert end(p)[0] == 0
    run = T.Run(tmp_path/'runs'/'small300-1')
    assert run.metrics[-1]['lr'] < .2 and run.result['seconds'] < 20
