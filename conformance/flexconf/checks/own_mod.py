"""Checks a mod that is not in the catalogue: typed on the command line, or a user's own function."""

from __future__ import annotations

import difflib
import functools
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from flexconf import subjects
from flexconf.cases.case import BlockSpec, Capture, Case
from flexconf.cases.problem import Problem
from flexconf.errors import InputError
from flexconf.language import modtext
from flexconf.machine import caches
from flexconf.runs.judging import Result, judge
from flexconf.verdict.outcome import Outcome, Stage, Symptom
from flexconf.workers import pool
from flexconf.workers.pool import Last, Lost, Report
from flexconf.workers.tasks import CaseTask, of_lost, prepare_worker

if TYPE_CHECKING:
    from flexconf.inputs import Inputs
    from flexconf.subjects.trial import Options

R = TypeVar("R")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_USERS_FAULT = (Stage.TRACE, Stage.ELIGIBILITY, Stage.RENDER)


@dataclass(frozen=True)
class CheckTask:
    """A case whose mods may be functions to import: `functions` holds (kind, "module:function") of each.

    `path` goes in front of the worker's sys.path. `detach` makes what the functions read stop requiring grad.
    """

    case: Case
    functions: tuple[tuple[modtext.Kind, str], ...]
    path: tuple[str, ...]
    subject: str = "reference.host"
    options: Options | None = None
    detach: bool = False


def task(
    score_mod: str | None,
    mask_mod: str | None,
    *,
    buffers: Sequence[str] = (),
    problem: Problem | None = None,
    block: tuple[int, int] = (128, 128),
    subject: str = "reference.host",
    options: Options | None = None,
    detach: bool = False,
) -> CheckTask:
    """The task for mods given as text or as `module:function`. `buffers` are the specs of captures.

    `detach` makes everything that the mods read stop requiring grad: buffers, and what a function captures.
    Raises InputError if no mod is given, a mod or a spec is not valid, or captures are missing or not read.
    """
    if score_mod is None and mask_mod is None:
        raise InputError("nothing to check; give a score_mod, or a mask_mod with --mask")
    texts: dict[modtext.Kind, str | None] = {"score": score_mod, "mask": mask_mod}
    functions = tuple((kind, text) for kind, text in texts.items() if text and _FUNCTION.fullmatch(text.strip()))
    for kind, _ in functions:
        texts[kind] = None
    captures = tuple(Capture.parse(spec) for spec in buffers)
    if detach:
        captures = tuple(replace(capture, requires_grad=False) for capture in captures)
    given = {c.name for c in captures}
    for kind, text in texts.items():
        needed = modtext.free_names(text) - given if text is not None else frozenset()
        if needed:
            name = min(needed)
            close = difflib.get_close_matches(name, [*given, *modtext.GRAMMAR_NAMES], 1)
            meant = f" (did you mean {close[0]!r}?)" if close else ""
            raise InputError(
                f"the {kind}_mod reads {name!r}, which is no name of the grammar and no buffer{meant}; "
                f"give it with --buffer '{name}=SHAPE:DTYPE', such as --buffer '{name}=H,N:float32'"
            )
    if not functions:
        read = frozenset[str]().union(*(modtext.free_names(t) for t in texts.values() if t is not None))
        unread = sorted(given - read)
        if unread:
            raise InputError(f"no mod reads the buffer {unread[0]!r}")
    case = Case(
        name="check",
        about="checked from the command line",
        # The case has the identity in the place of a function, so that it is complete. The worker inserts the function.
        score_mod=texts["score"] or ("score" if not texts["mask"] else None),
        mask_mod=texts["mask"],
        captures=captures,
        problem=problem or Problem(),
        block=BlockSpec(q=block[0], kv=block[1]),
    )
    return CheckTask(case, cast(Any, functions), ("",), subject, options, detach)


def check(what: CheckTask, time_limit: float | None = None) -> Result:
    """Run the task in an isolated worker. Raises InputError if the mods or the problem are at fault."""
    subject = subjects.require(what.subject)
    subject.check(what.options)
    if what.functions and subject.on_gpu:
        raise InputError(
            "a function reads its own tensors, which are where its module put them; "
            f"for {what.subject} give the mod as text, with --buffer, so that its tensors are made on the GPU"
        )
    ended = _in_a_worker(what, run_check, time_limit)
    if isinstance(ended, Lost):
        ended = of_lost(CaseTask(what.case, subject, what.options), ended)
    if subject.is_reference and ended.symptom is Symptom.REFUSED and ended.stage in _USERS_FAULT:
        raise InputError(f"refused while {_DOING[ended.stage]}: {ended.message}")
    return judge(what.case, ended)


_DOING = {Stage.TRACE: "tracing", Stage.ELIGIBILITY: "checking the inputs", Stage.RENDER: "lowering"}


def kernel_text(what: CheckTask, time_limit: float | None = None) -> str:
    """The rendered kernel text of the task's mods, made in an isolated worker. Raises InputError if rendering fails."""
    ended = _in_a_worker(what, run_render, time_limit)
    if isinstance(ended, Lost):
        raise InputError(f"it could not be rendered: {pool.describe(ended)}")
    return ended


def _in_a_worker(
    what: CheckTask, function: Callable[[CheckTask, Report], R | Last[R]], time_limit: float | None
) -> R | Lost:
    subject = subjects.get(what.subject)
    results: list[R | Lost] = []
    with caches.fresh() as variables:
        pool.run_many(
            [what],
            function,
            workers=1,
            time_limit=time_limit or subject.time_limit,
            on_result=lambda _, ended: results.append(ended),
            prepare=functools.partial(prepare_worker, subject),
            environments=subject.environments(1, variables),
        )
    (ended,) = results
    if isinstance(ended, Lost) and isinstance(ended.error, InputError):
        raise _unnamed(ended.error)
    return ended


def _unnamed(error: InputError) -> InputError:
    """The error without the name of the case, which the user did not give."""
    return InputError(str(error).removeprefix("case 'check': "))


def run_check(what: CheckTask, report: Report) -> Outcome:
    """Runs in the worker: imports the functions, makes the inputs, tries them in PyTorch, and runs the case."""
    report("inputs")
    given = _inputs(what)
    report("a trial in PyTorch")
    _require(given)
    subject = subjects.get(what.subject)
    if subject.is_reference or what.subject == "torch-codegen":  # the others only run forward, and ignore grad
        _require_no_grad(given)
    return subject.run(what.case, what.options, report, given=given)


def run_render(what: CheckTask, report: Report) -> str:
    """Runs in the worker: imports the functions, makes the inputs, and lowers the case. Returns the kernel text."""
    import flexflash

    given = _inputs(what)
    if what.case.expect == "ok":
        _require(given)
        _require_no_grad(given)
    try:
        kernel = flexflash.lower(
            given.q, given.k, given.v, given.score_mod, given.block_mask, given.scale, on_stage=report
        )
    except flexflash.FlexFlashError as error:
        raise InputError(str(error)) from None
    return kernel.text


def _inputs(what: CheckTask) -> Inputs:
    from flexconf import inputs
    from flexconf.checks import detaching

    sys.path[:0] = what.path
    functions = {kind: _load(spec) for kind, spec in what.functions}
    if what.detach:
        for kind, mod in functions.items():
            detaching.detach(mod, detaching.wanting(mod, kind))
    try:
        return inputs.materialize(what.case, functions=functions)
    except InputError as error:
        raise _unnamed(error) from None


def _require(given: Inputs) -> None:
    from flexconf.oracles import eager

    try:
        eager.require(given)
    except InputError as error:
        raise _unnamed(error) from None


def _require_no_grad(given: Inputs) -> None:
    """Raises InputError, with what to do, if a mod reads tensors that require grad (L4.2)."""
    from flexconf.checks import detaching

    mods: tuple[tuple[modtext.Kind, Any], ...] = (("score", given.score_mod), ("mask", given.mask_mod))
    for kind, mod in mods:
        wanting = detaching.wanting(mod, kind) if mod is not None else []
        if wanting:
            raise InputError(
                f"the {kind}_mod reads what requires grad: {detaching.described(mod, wanting)}. The lowering has no "
                "backward for it; give --detach to check the values alone, or detach them in your module"
            )


def of_case(case: Case) -> CheckTask:
    """A catalogue case as a task."""
    return CheckTask(replace(case), (), ())


def _load(spec: str) -> Any:
    module_name, _, path = spec.strip().partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"cannot import {error.name!r} for {spec!r}; run from the module's folder, or name it by its full path"
        ) from None
    except Exception as error:
        raise InputError(f"importing {module_name!r} failed: {type(error).__name__}: {error}") from None
    for part in path.split("."):
        if not hasattr(found, part):
            raise InputError(f"{module_name!r} has no {path!r}")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{spec!r} is a {type(found).__name__}, not a function")
    return found
