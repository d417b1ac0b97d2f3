"What the benchmarks share: fair timing, and results as JSON with the machine they were measured on"
import gc
import json
import platform
import statistics
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent/'results'


def race(runs, repeats=7):
    "Median seconds of each function, called in turn with garbage collection off, after one call to warm up"
    times = {name: [] for name in runs}
    for i in range(repeats + 1):
        for name, f in runs.items():
            gc.collect()
            gc.disable()
            start = time.perf_counter()
            f()
            seconds = time.perf_counter() - start
            gc.enable()
            if i: times[name].append(seconds)
    return {name: statistics.median(o) for name, o in times.items()}


def cpu():
    "The processor's name, as far as the system tells"
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return f'{names[0]}, {len(names)} threads' if names else platform.processor()


def report(name, rows, packages, **facts):
    "Print the rows, and write them to results/<name>.json with date, CPU and versions"
    machine = dict(cpu=cpu(), python=platform.python_version(), versions={p: version(p) for p in packages})
    versions = dict(Python=machine['python']) | machine['versions']
    print(machine['cpu'], *(f'{p} {v}' for p, v in versions.items()), sep=', ')
    width = max(len(row['work']) for row in rows)
    for row in rows: print(f"{row['work']:{width}}  {_result(row)}{_goals(row)}")
    data = dict(date=datetime.now(timezone.utc).isoformat(timespec='seconds'), **machine, **facts, rows=rows)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS/f'{name}.json').write_text(json.dumps(data, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


def _result(row):
    ours = f"{row['ours']:,.4g} {row['unit']}"
    return f"{ours}, {row['peer']} {row['theirs']:,.4g}: {row['ratio']:.2f}x" if row['peer'] else ours


def _goals(row):
    unit = 'x' if row['peer'] else f" {row['unit']}"
    return ''.join(f', {goal} {row[goal]}{unit}' for goal in ('bar', 'aim') if row.get(goal))


def row(work, unit, ours, peer=None, theirs=None, **goals):
    "One line of a report: our rate and a peer's, of which more is better, or a figure of ours alone, of which less is"
    return dict(work=work, unit=unit, ours=ours, peer=peer, theirs=theirs, ratio=ours/theirs if peer else None, **goals)
