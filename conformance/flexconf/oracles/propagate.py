"""Assigns each operation the rule that propagates the errors of its inputs to its result.

A rule takes an `Operation` and returns the `Shadow` of its result. It computes the value with the same ATen operation
on the float64 values of the inputs. A propagated error is an upper bound, not an estimate: monotone functions are
evaluated at both ends of the interval, and for others a bound on the derivative holds over the whole interval.
"""

from __future__ import annotations

from collections.abc import Callable

from flexconf.oracles import error_model as em
from flexconf.oracles.arithmetic import (
    addcmul,
    copysign,
    floor_divide,
    hypot,
    lerp,
    lipschitz,
    power,
    product,
    quotient,
    remainder,
    rounding,
    square,
    sum,
)
from flexconf.oracles.discrete import cast, classification, comparison, logic
from flexconf.oracles.functions import (
    angle,
    cosh,
    exponential,
    gelu,
    log,
    log_sigmoid,
    monotone,
    rectified,
    sigmoid,
    silu,
    sine,
    softplus,
    tangent,
    tanh,
)
from flexconf.oracles.gather import gather
from flexconf.oracles.integers import (
    any_integer,
    integer_floor,
    integer_monotone,
    integer_product,
    integer_remainder,
    integer_sum,
)
from flexconf.oracles.operation import LN2, Call, UnmodelledOperation
from flexconf.oracles.selection import frac, order, select, step
from flexconf.oracles.shadow import Shadow

RULES: dict[str, Callable[[Call], Shadow]] = {
    "sum": sum,
    "product": product,
    "square": square,
    "quotient": quotient,
    "floor_divide": floor_divide,
    "remainder": remainder,
    "fmod": remainder,
    "addcmul": addcmul,
    "lerp": lerp,
    "lipschitz": lipschitz,
    "copysign": copysign,
    "power": power,
    "hypot": hypot,
    "select": select,
    "order": order,
    "monotone": monotone,
    "rectified": rectified,
    "step": step,
    "round": rounding,
    "frac": frac,
    "exp": lambda op: exponential(op, 1.0, em.EXP_ARGUMENT),
    "exp2": lambda op: exponential(op, LN2, 0.0),
    "log": log,
    "sine": sine,
    "tangent": tangent,
    "cosh": cosh,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "silu": silu,
    "gelu": gelu,
    "softplus": softplus,
    "log_sigmoid": log_sigmoid,
    "angle": angle,
    "comparison": comparison,
    "classification": classification,
    "logic": logic,
    "integer": any_integer,
    "cast": cast,
    "gather": gather,
}
_DISCRETE: dict[str, Callable[[Call], Shadow]] = {
    "sum": integer_sum,
    "product": integer_product,
    "select": select,
    "order": integer_monotone,
    "lipschitz": integer_monotone,
    "step": integer_monotone,
    "round": integer_monotone,
    "quotient": integer_floor,
    "floor_divide": integer_floor,
    "remainder": integer_remainder,
    "fmod": integer_remainder,
    "comparison": comparison,
    "classification": classification,
    "logic": logic,
    "cast": cast,
    "gather": gather,
}


def shadow_of(op: Call) -> Shadow:
    """Applies the rule of `op`. Raises UnmodelledOperation if there is none."""
    model = em.OPS.get(op.name)
    if model is None:
        raise UnmodelledOperation(f"{op.func} has no error model (see flexconf ops for those that have one)")
    if not op.nominal.is_floating_point and not any(s.nominal.is_floating_point for s in op.shadows):
        if all(s.exact for s in op.shadows):
            same = all(s.real for s in op.shadows)
            # op.args holds no dtype argument, so a cast alone would return the dtype of its input.
            return Shadow(op.real if same else op.on().to(op.nominal), None, op.nominal, real=same)
        return _DISCRETE.get(model.rule, any_integer)(op)
    return RULES[model.rule](op)
