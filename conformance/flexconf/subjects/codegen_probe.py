"""Asks whether the subject torch-codegen knows its way into the installed torch, whatever the torch's version is.

First every private part is looked up by name and by its arguments. Then one small attention runs. It has a score_mod
with a capture, a mask_mod, GQA, and a full, two partial and an empty block. Torch must reach every part on the way, and
the result must be right by the float64 oracle.
"""

from __future__ import annotations

import functools

from flexconf import inputs, tampering
from flexconf.cases import catalogue
from flexconf.subjects import torch_codegen, torch_flex, torch_private, trial
from flexconf.subjects.torch_private import Generated, HookChanged
from flexconf.subjects.trial import Options, StageClock

CASE = """
[probe]
score_mod = "score * 0.5 + bias[h, kv]"
mask_mod = "q >= kv"
captures = { bias = "H,N:float32:normal" }
problem = { H = 2, Hkv = 1, M = 160, N = 160, D = 16 }
"""


def require() -> None:
    """Probes the installed torch, once in a process. Raises HookChanged, which names the part that has changed.

    While a planted fault is switched on it does nothing: a wrong result would be the fault's.
    """
    if not tampering.active():
        _probe()


@functools.cache
def _probe() -> None:
    torch_private.check()
    (case,) = catalogue.load_text(CASE, "the probe of torch-codegen")
    given = inputs.materialize(case)
    found = Generated()
    try:
        attended = torch_codegen.codegen(given, StageClock(), Options(), found)
    except HookChanged:
        raise
    except Exception as error:
        *_, first = torch_flex.chain(error)
        hook = next((hook for hook in torch_private.REACHED if hook not in found.reached), torch_private.CASE)
        where = "torch did not come to it" if hook != torch_private.CASE else "torch came to every part"
        raise HookChanged(hook, f"{where}, and raised {torch_flex.shown(first)}") from error
    for hook in torch_private.REACHED:
        if hook not in found.reached:
            raise HookChanged(hook, "torch compiled and ran an attention without coming to it")
    comparison = trial.attention(given, Options())(attended.on_cpu())
    if not comparison.passed:
        raise HookChanged(torch_private.CASE, f"{comparison.symptom}: {comparison.reason}")
