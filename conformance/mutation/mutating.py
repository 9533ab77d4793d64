"""Mutation testing of impl/flexflash: does the suite notice when the lowering is changed?

`python conformance/mutation --sample 300 --seed 1` (or `tox -e mutation`). cosmic-ray makes one change at a time in a
copy of the project. Each mutant is tried with tests that reach the changed line. The most specific tests are chosen
first, up to `--budget` seconds in all. A mutant with which all tests pass is a survivor. It is printed with its place.

There are three steps: the map from lines to tests, made with coverage.py; the sample; the results, one JSON line each.
Each step is kept in `--out`, so that a run that was killed continues where it stopped. The exit code is 0 if at least
the share `--least` of the sample is killed, 1 if not, 2 for a bad input, or if tests fail in an unchanged copy.

Some changes are excluded before the sample is drawn, because no test could notice them on a CPU:
- changes of annotations, which are never evaluated;
- changes of `launch/fa4.py`, and of the functions of `launch/simt.py` that only a GPU reaches;
- `is` for `==` and `==` for `is`: both give the same for None, dtypes, classes and the short strings compared here.

cosmic-ray does not change text in strings, such as the prelude's CuTe functions. The planted faults
(`python -m flexconf.planted`) are the mutants of these texts.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import difflib
import json
import math
import multiprocessing
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import running
import selecting
from running import ROOT, Unusable
from selecting import Place, Reach

TARGET = "impl/flexflash"
LEFT_OUT = ("launch/fa4.py",)
ONLY_GPU = {"impl/flexflash/launch/simt.py": ("_launch", "_kernel", "_current_stream")}
SAME = re.compile(r"core/ReplaceComparisonOperator_(Is_Eq|Eq_Is|IsNot_NotEq|NotEq_IsNot)")
TESTS = (
    "conformance/suite/test_kernel.py",
    "conformance/suite/test_eligibility.py",
    "conformance/suite/test_indexing.py",
    "conformance/suite/test_launch.py",
    "conformance/suite/test_attention.py",
    "conformance/suite/test_rendering.py",
    "conformance/suite/test_cheap_forms.py",
    "conformance/suite/test_fast_math.py",
    "conformance/suite/test_mods.py",
    "conformance/suite/test_mod_numbers.py",
    "conformance/suite/test_mod_refusals.py",
    "conformance/suite/test_tracing.py",
    "conformance/suite/test_numbers.py",
    "conformance/suite/test_decomposed.py",
    "conformance/suite/test_signs.py",
    "conformance/suite/test_functions.py",
    "conformance/suite/test_simt.py",
    "conformance/suite/test_operations.py",
    "conformance/suite/test_catalogue_cases.py",
    "conformance/suite/test_availability.py",
    "conformance/meta/test_corrections.py",
)
MAP, SAMPLE, RESULTS = "map.json", "sample.json", "results.jsonl"
SLOWER = 8.0  # a mutant counts as hanging after this many times the duration of the chosen tests
AT_LEAST = 60.0  # seconds; the shortest time limit


@dataclass(frozen=True)
class Mutant:
    """One change: cosmic-ray's operator applied at its `occurrence`-th place in a module."""

    module: str
    operator: str
    occurrence: int
    start: tuple[int, int]
    end: tuple[int, int]
    definition: str
    arguments: dict[str, Any]

    @property
    def ident(self) -> str:
        """Its name in the results."""
        return f"{self.module}:{self.start[0]}:{self.start[1]}:{self.operator}:{self.occurrence}"


@dataclass(frozen=True)
class Tried:
    """The outcome of a mutant: killed, survived, or not reached by any test."""

    ident: str
    module: str
    line: int
    operator: str
    outcome: str
    tests: int
    seconds: float
    diff: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Tries the mutants that have no result yet, and prints the table."""
    parser = argparse.ArgumentParser(prog="python conformance/mutation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sample", type=int, default=300, help="mutants to try; 300 by default")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="copies of the project")
    parser.add_argument("--budget", type=float, default=120.0, help="seconds of tests for a mutant")
    parser.add_argument("--least", type=float, default=0.9, help="the share that has to be killed")
    parser.add_argument("--out", type=Path, default=Path(".flexconf/mutation"), help="where everything is kept")
    asked = parser.parse_args(arguments)
    if asked.sample < 1 or asked.workers < 1 or not 0 < asked.budget < math.inf or not 0 <= asked.least <= 1:
        parser.error("--sample and --workers are at least 1, --budget is above 0 and finite, --least from 0 to 1")
    out: Path = asked.out.absolute()
    try:
        out.mkdir(parents=True, exist_ok=True)
        reach = reached(out)
        sample = sampled(out, asked.sample, asked.seed)
        done = {r.ident: r for r in results(out)}
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}; name a folder for --out that can be written")
    except Unusable as error:
        parser.error(str(error))
    left = [m for m in sample if m.ident not in done]
    print(f"{len(sample)} mutants, {len(done)} of them done", flush=True)
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / TARGET).rglob("*.py"))}
    chosen = {m.ident: chosen_for(m, sources, reach, asked.budget) for m in left}
    seconds = {ident: sum(reach.seconds[t] for t in tests) for ident, tests in chosen.items()}
    context = multiprocessing.get_context("spawn")
    first = quickest(reach, {test for tests in chosen.values() for test in tests})
    with (
        tempfile.TemporaryDirectory(prefix="flexconf-mutation-") as copies,
        ProcessPoolExecutor(asked.workers, mp_context=context, initializer=_stage, initargs=(first, copies)) as pool,
    ):
        waiting = [pool.submit(_try, m, chosen[m.ident], seconds[m.ident]) for m in left]
        try:
            for number, future in enumerate(as_completed(waiting), 1):
                result = future.result()
                done[result.ident] = result
                with (out / RESULTS).open("a") as file:
                    file.write(json.dumps(asdict(result)) + "\n")
                print(f"{number}/{len(left)} {result.outcome} {result.ident} ({result.seconds:.0f} s)", flush=True)
        except Unusable as error:
            pool.shutdown(cancel_futures=True)
            parser.error(str(error))
    return report([done[m.ident] for m in sample], asked.least)


# ------------------------------------------------------------------------------------------- lines and their tests


def reached(out: Path) -> Reach:
    """The lines that each test reaches. Without a map in `out`, runs every test once under coverage.py."""
    path = out / MAP
    if not path.exists():
        with tempfile.TemporaryDirectory() as folder:
            copy = running.copied(Path(folder))
            environment = {**running.environment(copy), "FLEXCONF_MUTATION_MAP": str(path)}
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "lines", *TESTS]
            print("running every test once, to see what it reaches", flush=True)
            ended = subprocess.run(command, cwd=copy, env=environment, check=False)
            if ended.returncode or not path.exists():
                raise Unusable(
                    f"the tests have to pass before anything is changed; pytest ended with {ended.returncode}"
                )
    with _read(path):
        found = json.loads(path.read_text())
        return Reach(found["lines"], found["seconds"], found["uses"])


@contextmanager
def _read(path: Path) -> Iterator[None]:
    """Raises Unusable if the file of an earlier run cannot be read."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = "is not whole, or an older version's; delete it, or name another --out"
        raise Unusable(f"{path} {what} ({type(error).__name__}: {error})") from None


def chosen_for(mutant: Mutant, sources: Mapping[str, str], reach: Reach, budget: float) -> list[str]:
    """The tests that a mutant is tried with."""
    helpers = None
    if mutant.module == selecting.PRELUDE:
        helpers = selecting.changed_helpers(sources[mutant.module], _mutated(mutant, sources[mutant.module]))
    place = Place(mutant.module, mutant.start[0], mutant.end[0], helpers)
    return selecting.tests_for(place, sources, reach, budget, mutant.ident)


def _mutated(mutant: Mutant, text: str) -> str:
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    operator = get_operator(mutant.operator)(**mutant.arguments)
    return str(mutate_code(text, operator, mutant.occurrence) or text)


# ------------------------------------------------------------------------------------------------------ the sample


def sampled(out: Path, size: int, seed: int) -> list[Mutant]:
    """A random sample of all mutants. A later run with the same `out` gets the same sample."""
    path = out / SAMPLE
    if path.exists():
        with _read(path):
            kept = json.loads(path.read_text())
            drawn, mutants = (kept["size"], kept["seed"]), [_mutant(m) for m in kept["mutants"]]
        if drawn != (size, seed):
            raise Unusable(f"{path} holds another sample ({drawn[0]}, seed {drawn[1]}); name another --out")
        return mutants
    everything = list(all_mutants())
    chosen = random.Random(seed).sample(everything, min(size, len(everything)))
    text = json.dumps({"size": size, "seed": seed, "of": len(everything), "mutants": [asdict(m) for m in chosen]})
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)
    print(f"{len(everything)} mutants in all", flush=True)
    return chosen


def all_mutants() -> Iterator[Mutant]:
    """Every change that cosmic-ray can make, without the excluded ones (see the module docstring)."""
    from cosmic_ray.commands.init import _all_work_items
    from cosmic_ray.modules import find_modules

    os.chdir(ROOT)
    paths = [p for p in find_modules([Path(TARGET)]) if not str(p).endswith(LEFT_OUT)]
    spans = {str(p): _annotations(p.read_text()) for p in paths}
    for item in _all_work_items(sorted(paths), {}):
        (m,) = item.mutations
        if SAME.fullmatch(m.operator_name) or m.definition_name in ONLY_GPU.get(str(m.module_path), ()):
            continue
        start, end = tuple(m.start_pos), tuple(m.end_pos)
        if any(first <= start and end <= last for first, last in spans[str(m.module_path)]):
            continue
        yield Mutant(
            str(m.module_path), m.operator_name, m.occurrence, start, end, m.definition_name or "", m.operator_args
        )


def _annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The places of the annotations of a module: (start, end), each as (line, column)."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            expression = getattr(node, name, None)
            if isinstance(expression, ast.expr):
                found.append(expression)
    return [((e.lineno, e.col_offset), (e.end_lineno or e.lineno, e.end_col_offset or 0)) for e in found]


def _mutant(data: dict[str, Any]) -> Mutant:
    return Mutant(**{**data, "start": tuple(data["start"]), "end": tuple(data["end"])})


# --------------------------------------------------------------------------------------------------- one at a time


def quickest(reach: Reach, tests: Iterable[str]) -> list[str]:
    """Of each file the test that takes least time: a few tests that show whether a copy works."""
    of_file: dict[str, str] = {}
    for test in sorted(tests, key=lambda t: (reach.seconds[t], t)):
        of_file.setdefault(test.partition("::")[0], test)
    return list(of_file.values())


_refused: str | None = None  # why this worker tries no mutant


def _stage(first: list[str], copies: str) -> None:
    """Runs in a worker: makes the worker's own copy of the project in `copies`, and runs the tests `first` in it."""
    global _refused
    copy = Path(tempfile.mkdtemp(dir=copies))
    running.copied(copy)
    # Unchanged modules are compiled once here. A changed module is compiled again, because its time stamp differs.
    compileall.compile_dir(copy, quiet=1)
    os.environ.update(running.environment(copy))
    os.chdir(copy)
    _refused = running.check(first) if first else None


def _try(mutant: Mutant, tests: list[str], seconds: float) -> Tried:
    """Runs in a worker: applies the mutant, runs the tests, undoes the change.

    Raises Unusable if the tests cannot be run, with or without the change.
    """
    if _refused is not None:
        raise Unusable(_refused)
    from cosmic_ray.mutating import use_mutation
    from cosmic_ray.plugins import get_operator

    started = time.monotonic()
    operator = get_operator(mutant.operator)(**mutant.arguments)
    with use_mutation(Path(mutant.module), operator, mutant.occurrence) as (before, after):
        if after is None:
            raise Unusable(f"{mutant.ident}: no such place; the sample is of another version, so name another --out")
        outcome = running.outcome(tests, max(AT_LEAST, SLOWER * seconds)) if tests else "not reached"
    if outcome is None:
        refused = running.check(tests)
        if refused is not None:
            raise Unusable(f"{mutant.ident}: {refused}")
        outcome = "killed"  # the same tests run without the change
    taken = round(time.monotonic() - started, 1)
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), mutant.module, mutant.module, lineterm="")
    diff = "\n".join(lines)
    return Tried(mutant.ident, mutant.module, mutant.start[0], mutant.operator, outcome, len(tests), taken, diff)


# ------------------------------------------------------------------------------------------------------ the report


def results(out: Path) -> list[Tried]:
    """The results that are kept in this folder."""
    path = out / RESULTS
    with _read(path):
        return [Tried(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def report(found: list[Tried], least: float) -> int:
    """Prints a table by module, and every survivor. Returns the exit code."""
    by_module: dict[str, Counter[str]] = defaultdict(Counter)
    for r in found:
        by_module[r.module.removeprefix(f"{TARGET}/")][r.outcome] += 1
    print(f"\n{'module':24} {'mutants':>8} {'killed':>8} {'survived':>9} {'not reached':>12}")
    for module, counts in sorted(by_module.items()):
        row = (counts.total(), counts["killed"], counts["survived"], counts["not reached"])
        print(f"{module:24} {row[0]:8} {row[1]:8} {row[2]:9} {row[3]:12}")
    killed = sum(r.outcome == "killed" for r in found)
    for r in found:
        if r.outcome != "killed":
            changed = [line for line in r.diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
            print(f"\n{r.outcome}: {r.module}:{r.line} {r.operator.removeprefix('core/')} ({r.tests} tests)")
            print("\n".join(changed))
    share = killed / len(found)
    print(f"\n{killed} of {len(found)} killed: {share:.1%}; {least:.0%} are wanted")
    return 0 if share >= least else 1
