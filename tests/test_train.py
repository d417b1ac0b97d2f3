"Training as a user meets it: the command, and runs that are stopped, killed, damaged or given wrong input"
import random
import re
import shutil
import signal
import sys

import pytest
from commands import assert_same, small, wait_for_steps

from mini_llm.engine import files
from mini_llm.workshop.dataset import encode_corpus
from mini_llm.engine.files import sha256
from mini_llm.workshop.run import Run
from mini_llm.train import Trainer, load_state

SMALL = small(steps=60)


@pytest.fixture
def reference(finish, tokens, tmp_path):
    "A run that nobody disturbed"
    assert finish('train.py', '--data', tokens, *SMALL)[0] == 0
    return Run(tmp_path/'runs'/'small300-1')


def test_killed_at_random_points_and_resumed_is_the_same(reference, start, finish, tokens, tmp_path):
    run = tmp_path/'runs'/'small300-2'
    p = start('train.py', '--data', tokens, *SMALL, '--checkpoint_seconds', 0.01)
    for n in sorted(random.Random(0).sample(range(1, 55), 3)):
        wait_for_steps(run, n, p)
        p.kill()
        p.communicate()
        assert Run(run).result is None
        p = start('train.py', '--resume', run)
    out, err = p.communicate(timeout=240)
    assert p.returncode == 0, err
    assert_same(Run(run), reference)


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no SIGINT or SIGTERM for another process')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal_saves_and_says_how_to_go_on(reference, start, finish, tokens, tmp_path, number):
    p = start('train.py', '--data', tokens, *SMALL)
    run = tmp_path/'runs'/'small300-2'
    wait_for_steps(run, 5, p)
    p.send_signal(number)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 128 + number and not err
    assert 'train.py --resume runs/small300-2' in out
    assert f'stopped after step {len(Run(run).metrics)} of 60' in out
    code, out, err = finish('train.py', '--resume')         # without a name: the newest unfinished
    assert code == 0, err
    assert 'resuming runs/small300-2' in out.replace('\\', '/')
    assert_same(Run(run), reference)


def test_a_crash_while_a_checkpoint_is_written_leaves_the_one_before(reference, tmp_path, tokens, monkeypatch):
    (reference.path/'result.json').unlink()
    trainer = Trainer(reference)
    trainer.restore()
    before = sha256(reference.path/'state.safetensors')
    trainer.budget.plans, trainer.steps_done = [[0, 100]], 60
    trainer.step()
    monkeypatch.setattr(files.os, 'fsync', lambda _: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(OSError, match='No space left'): trainer.checkpoint()
    assert sha256(reference.path/'state.safetensors') == before
    assert load_state(reference.path/'state.safetensors')[1]['step'] == 60
    assert not list(reference.path.glob('.*tmp'))


def test_a_run_never_overwrites_another_and_mentions_an_unfinished_one(reference, finish, tokens, tmp_path):
    before = {p: sha256(p) for p in reference.path.rglob('*') if p.is_file()}
    (reference.path/'result.json').rename(tmp_path/'kept.json')
    code, out, err = finish('train.py', '--data', tokens, *SMALL, '--steps', 2)
    assert code == 0, err
    assert 'small300-1 is unfinished' in out and 'small300-2' in out
    (tmp_path/'kept.json').rename(reference.path/'result.json')
    assert {p: sha256(p) for p in reference.path.rglob('*') if p.is_file()} == before


def test_two_processes_cannot_train_one_run(start, finish, tokens, tmp_path):
    p = start('train.py', '--data', tokens, *SMALL, '--steps', 100_000)
    wait_for_steps(tmp_path/'runs'/'small300-1', 3, p)
    code, out, err = finish('train.py', '--resume', 'runs/small300-1')
    p.kill()
    p.communicate()
    assert code == 2 and 'being trained by another process' in err


def test_without_arguments_it_trains_on_the_newest_token_files(finish, tokens, tmp_path):
    shutil.copytree(tokens.parent, tmp_path/'datasets')
    code, out, err = finish('train.py', *SMALL, '--steps', 3)
    assert code == 0 and 'small300-1' in out, err
    assert 'generate.py "En un lugar de la Mancha" --run runs/' in out
    code, out, err = finish('generate.py', 'En un lugar de la Mancha', '--seed', 1, '--max_new_tokens', 5)
    assert code == 0 and out.startswith('En un lugar de la Mancha') and 'small300-1' in err


def test_without_token_files_it_prints_the_command_that_makes_them(finish):
    code, out, err = finish('train.py')
    assert code == 2 and 'dataset.py --train True --train_dataset' in err and 'Traceback' not in err


@pytest.mark.parametrize('args, message', [
    (['--preset', 'huge'], "no preset 'huge'; there are"),
    (['--n_head', '3', '--n_embd', '64'], 'n_head=3 does not divide n_embd=64'),
    (['--steps', '5', '--minutes', '5'], 'give one of the two'),
    (['--steps', '0'], 'steps=0 must be a whole number of at least 1'),
    (['--context_length', '1000000'], 'too few'),
    (['--data', 'nowhere'], 'holds no token files'),
    (['--resume', 'nowhere'], 'is not a training run'),
    (['--resume'], 'no unfinished run'),
    (['--resume', 'x', '--steps', '5'], 'without other flags'),
    (['--dropout', '1.5'], 'dropout=1.5'),
])
def test_wrong_input_is_one_clear_line(finish, tokens, args, message):
    if not {'--data', '--resume'} & set(args): args = ['--data', tokens, *args]
    code, out, err = finish('train.py', *args)
    assert code == 2 and message in err and 'Traceback' not in err


def test_token_files_made_anew_from_another_text_are_refused(finish, tokens, tmp_path, root):
    data = tmp_path/'datasets'/'mine'
    model = tokens.parent.parent/'small300.model'
    encode_corpus(model, ['una historia ' * 500], data)
    assert finish('train.py', '--data', data, *SMALL)[0] == 0
    (tmp_path/'runs'/'mine-1'/'result.json').unlink()
    encode_corpus(model, ['otra historia ' * 500], data)
    code, out, err = finish('train.py', '--resume', 'runs/mine-1')
    assert code == 2 and 'was made from corpus' in err and 'Traceback' not in err


def test_a_damaged_checkpoint_is_refused_with_the_reason(finish, tokens, reference):
    (reference.path/'result.json').unlink()
    file = reference.path/'state.safetensors'
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    code, out, err = finish('train.py', '--resume', reference.path)
    assert code == 2 and 'do not match their digest' in err


@pytest.mark.parametrize('more', [['1e30'], ['1e18', '--warmup', 0, '--eval_every', 1]], ids=['loss', 'evaluation'])
def test_divergence_is_named_and_keeps_the_last_good_checkpoint(finish, tokens, tmp_path, more):
    code, out, err = finish('train.py', '--data', tokens, *SMALL, '--learning_rate', more[0],
                            '--adam_learning_rate', *more)
    assert code == 1 and re.search(r'step \d+: .* keeps its last good checkpoint', err) and 'Traceback' not in err
    assert re.search(r"first seen in: .+, in the window that begins '\S", err), err
    tensors, info = load_state(tmp_path/'runs'/'small300-1'/'state.safetensors')
    assert all(t.isfinite().all() for t in tensors.values())


def test_a_budget_in_minutes_is_kept_by_its_plans(finish, tokens, tmp_path):
    code, out, err = finish('train.py', '--data', tokens, '--minutes', .05, *small(), '--checkpoint_seconds', .5)
    assert code == 0, err
    run = Run(tmp_path/'runs'/'small300-1')
    plans = run.result['plans']
    assert plans[0][0] == 0 and plans[-1][1] == run.result['steps'] == len(run.metrics)
    assert run.metrics[-1]['lr'] < .2, 'the learning rate must have fallen at the end'


@pytest.mark.parametrize('length,batch', [(32, 16), (256, None)])
def test_a_batch_size_that_nobody_gave_fits_the_text(finish, tokens, tmp_path, length, batch):
    args = f'--steps 2 --n_layer 1 --n_head 2 --n_embd 32 --context_length {length} --threads 1 --dtype float32'.split()
    code, out, err = finish('train.py', '--data', tokens, *args)
    assert code == 0, err
    settings = Run(tmp_path/'runs'/'small300-1').settings
    windows = settings['data']['train']['ids']//length - 1
    assert settings['train']['batch_size'] == (batch or min(16, windows))


def test_a_run_of_another_version_is_refused(finish, tokens, tmp_path):
    assert finish('train.py', '--data', tokens, *SMALL, '--steps', 2)[0] == 0
    file = tmp_path/'runs'/'small300-1'/'train.json'
    file.write_text(file.read_text().replace('"recipe":', '"other":'))
    for what in '--resume', '--reproduce':
        code, out, err = finish('train.py', what, file.parent)
        assert code == 2 and 'begun by another version of mini_llm' in err and 'Traceback' not in err


def test_minutes_choose_a_network_and_reproduce_repeats_the_run(finish, tokens, tmp_path):
    code, out, err = finish('train.py', '--data', tokens, '--minutes', .05, '--threads', 1, '--dtype', 'float32')
    assert code == 0, err
    run = Run(tmp_path/'runs'/'small300-1')
    plan, chosen = run.settings['plan'], run.settings['train']
    assert plan['said'] in out and plan['bits'][0] < plan['bits'][1] and plan['rate'] > 0
    assert chosen['batch_size'] >= 16 and chosen['weight_decay'] > 0 and chosen['eval_every'] >= 1
    assert run.result['plans'][-1][1] == run.result['steps'] and run.metrics[-1]['lr'] < .2
    code, out, err = finish('train.py', '--reproduce', run.path)
    assert code == 0, err
    again = Run(tmp_path/'runs'/'small300-2')
    assert 'plan' not in again.settings and again.result['plans'] == run.result['plans']
    assert sha256(again.path/'model.safetensors') == sha256(run.path/'model.safetensors')


def test_a_cpu_without_bfloat16_trains_in_float32(finish, tokens, tmp_path):
    "As an older CPU would: oneDNN and torch are told to use AVX2 at most, where bfloat16 is emulated"
    args = '--steps 12 --n_layer 4 --n_head 4 --n_embd 256 --context_length 64 --batch_size 4'.split()
    code, out, err = finish('train.py', '--data', tokens, *args, ONEDNN_MAX_CPU_ISA='AVX2', ATEN_CPU_CAPABILITY='avx2')
    assert code == 0, err
    run = Run(tmp_path/'runs'/'small300-1')
    assert run.settings['machine']['dtype'] == 'float32'
    assert run.metrics[-1]['loss'] < run.metrics[0]['loss']


def test_help_explains_every_field():
    from mini_llm.workshop.commands import _TRAIN_EXAMPLES, _train_flags
    from mini_llm.workshop.terminal import parser
    text = parser('train', _train_flags({}), '', _TRAIN_EXAMPLES).format_help()
    for word in '--resume', '--preset', '--n_layer', 'Blocks', '--minutes', 'examples:': assert word in text


def test_resume_refuses_another_split_and_a_missing_checkpoint(finish, tokens, tmp_path, root):
    data, model = tmp_path/'datasets'/'mine', tokens.parent.parent/'small300.model'
    text = (root/'datasets'/'cervantes.txt').read_text(encoding='utf-8')[:8_000]
    encode_corpus(model, [text], data)
    assert finish('train.py', '--data', data, *SMALL, '--steps', 3)[0] == 0
    run = tmp_path/'runs'/'mine-1'
    (run/'result.json').unlink()
    encode_corpus(model, [text], data, train_split=.7)
    code, out, err = finish('train.py', '--resume', run)
    assert code == 2 and 'train_split 0.7' in err and '0.9' in err
    encode_corpus(model, [text], data)
    (run/'state.safetensors').unlink()
    code, out, err = finish('train.py', '--resume', run)
    assert code == 2 and 'state.safetensors is missing' in err
    assert len(Run(run).metrics) == 3


def test_held_out_text_shorter_than_the_context(finish, tokens, tmp_path):
    data = tmp_path/'datasets'/'short'
    encode_corpus(tokens.parent.parent/'small300.model', ['En un lugar de la Mancha vivía un hidalgo. ' * 12], data)
    code, out, err = finish('train.py', '--data', data, *SMALL, '--steps', 2, '--context_length', 64)
    assert code == 0, err
