"""The components of two environments, side by side, and which changed component can have caused a failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flexconf import subjects
from flexconf.gate.model import Component

FAULT, SUITE, COMMIT = "planted fault", "flexflash-conformance", "suite commit"
_OWN = (FAULT, SUITE, COMMIT)
_GPU = ("driver", "CUDA", "GPU", "compute capability")
_RUNS_PTX = ("nvidia-cutlass-dsl", *_GPU)  # the DSL ships the assembler of PTX
_MACHINE = ("cpu", "platform", "python")
_LOWERED_BY = ("torch", "sympy")

_OF_LAYER: Mapping[str, tuple[str, ...]] = {
    "codegen": (*_OWN, *_LOWERED_BY, "nvidia-cutlass-dsl", *_MACHINE),
    "lowering": (*_OWN, *_LOWERED_BY, "nvidia-cutlass-dsl", *_MACHINE),
    "block lists": (*_OWN, *_LOWERED_BY, "nvidia-cutlass-dsl", *_MACHINE),
    "GPU compiler": ("nvidia-cutlass-dsl", *_GPU),
    "simt kernel": (*_OWN, "nvidia-cutlass-dsl", *_GPU),
    "flash-attn-4": ("flash-attn-4", "quack-kernels", "nvidia-cutlass-dsl", *_GPU),
    "CuTe": ("nvidia-cutlass-dsl", *_MACHINE),
    "torch-codegen": (*_LOWERED_BY, "nvidia-cutlass-dsl", *_MACHINE),
    "torch-flash": (*_LOWERED_BY, "flash-attn-4", "quack-kernels", "nvidia-cutlass-dsl", *_GPU),
    "torch-triton": (*_LOWERED_BY, "triton", *_GPU),
    "torch-eager": ("torch", *_GPU, *_MACHINE),
    "oracle": (*_OWN, "torch", "numpy", *_MACHINE),
}
"""The components that each layer of `flexconf.checks.attribution` depends on, the likeliest cause first."""

_HARMLESS = ("numpy", "cpus", "GPUs")
"""Components that change no result of a kernel. If numpy makes other inputs, the digests of the inputs show it."""


def flatten(environment: Mapping[str, Any]) -> dict[str, str]:
    """{component: value as text} of a bundle's environment; "" for a component that is absent.

    An unknown key keeps its own name, so that every recorded fact is compared.
    """
    rest = dict(environment)
    found: dict[str, str] = {}
    gpus = [g for g in rest.pop("gpus", None) or () if isinstance(g, Mapping)]
    for name, key in (("GPU", "name"), ("driver", "driver"), ("compute capability", "compute_capability")):
        found[name] = ", ".join(dict.fromkeys(str(g.get(key, "")) for g in gpus))
    found["CUDA"] = _text(rest.pop("cuda", None))
    packages = rest.pop("packages", None)
    found |= {str(k): _text(v) for k, v in packages.items()} if isinstance(packages, Mapping) else {}
    git = rest.pop("git", None)
    if isinstance(git, Mapping):
        changes = _text(git.get("changes"))[:12]
        found[COMMIT] = _text(git.get("commit"))[:12] + (f" and changes {changes}" if changes else "")
    elif git is not None:
        found[COMMIT] = _text(git)
    found[FAULT] = _text(rest.pop("planted", None))
    found |= {name: _text(rest.pop(name, None)) for name in ("python", "platform", "cpu", "cpus")}
    found["GPUs"] = str(len(gpus)) if gpus else ""
    for key, value in sorted(rest.items()):
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": _text(v) for inner, v in sorted(value.items())}
        else:
            found[str(key)] = _text(value)
    return found


def _text(value: object) -> str:
    return "" if value is None else str(value)


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Component, ...]:
    """Every component that at least one of the two environments has, in the order of `flatten`."""
    old, new = flatten(before), flatten(after)
    names = [n for n in dict.fromkeys([*old, *new]) if old.get(n) or new.get(n)]
    return tuple(Component(n, old.get(n, ""), new.get(n, "")) for n in names)


def packages(environment: Mapping[str, Any]) -> dict[str, str | None]:
    """{package: version} of an environment. A version is None if the package is not installed."""
    found = environment.get("packages")
    return {str(k): None if v is None else str(v) for k, v in found.items()} if isinstance(found, Mapping) else {}


def capability(environment: Mapping[str, Any]) -> str | None:
    """The compute capability of the first GPU. Returns None if there is no GPU."""
    gpus = environment.get("gpus")
    first = gpus[0] if isinstance(gpus, Sequence) and gpus else None
    return _text(first.get("compute_capability")) if isinstance(first, Mapping) else None


def planted(environment: Mapping[str, Any]) -> str:
    """The name of the planted fault. Returns "" if none was planted."""
    return flatten(environment)[FAULT]


def needs_gpu(subject: str) -> bool:
    """Whether `subject` is a known subject that runs on a GPU only."""
    known = subjects.SUBJECTS.get(subject)
    return known is not None and known.needs_gpu


def uncommitted(environment: Mapping[str, Any]) -> bool:
    """Whether the environment is a checkout with uncommitted changes."""
    git = environment.get("git")
    return isinstance(git, Mapping) and bool(git.get("changes"))


def idle(components: Sequence[Component], subjects: Mapping[str, bool]) -> tuple[list[Component], list[Component]]:
    """The changed components that can change a subject's results: (used by one of `subjects`, used by none of them).

    `subjects` maps a name to whether it runs on a GPU.
    """
    used = {n for s, gpu in subjects.items() for n in _of_subject(s) if gpu or n not in _GPU}
    parts = {*_GPU, *_LOWERED_BY, "triton", "flash-attn-4", "quack-kernels", "nvidia-cutlass-dsl"}
    differing = [c for c in components if c.differs and c.name in parts]
    return [c for c in differing if c.name in used], [c for c in differing if c.name not in used]


def on_gpu(subject: str, environment: Mapping[str, Any]) -> bool:
    """Whether `subject` runs on a GPU in `environment`. Returns True for an unknown subject."""
    known = subjects.SUBJECTS.get(subject)
    return known is None or known.device == "cuda" or (known.device == "any" and bool(environment.get("gpus")))


def suspects(
    components: Sequence[Component],
    subject: str,
    layer: str = "",
    *,
    gpu: bool,
    same_text: bool = False,
    same_ptx: bool | None = None,
) -> tuple[str, ...]:
    """The names of the changed components that can have caused a failure of `subject`, the likeliest first.

    `layer` is the layer that the attribution names, "" if there is none. `same_text` says that both environments
    rendered the same text: the components that only render it are then left out. `same_ptx` says whether both compiled
    the same PTX, None if that is unknown. True puts the components that assemble and run PTX first; False puts the
    driver, CUDA and the GPU last. `same_ptx` leaves none out, since a kernel is also launched.
    """
    differing = {c.name for c in components if c.differs}
    can = [*_OF_LAYER.get(layer, _of_subject(subject))]
    # The driver and the GPU cannot affect a subject that runs on a CPU.
    can = [n for n in can if gpu or n not in _GPU]
    if same_text:
        can = [n for n in can if n not in (*_OWN, *_LOWERED_BY)]
    if same_ptx is not None:
        can.sort(key=lambda n: n not in _RUNS_PTX if same_ptx else n in _GPU)
    # A planted fault comes first. The suite runs every subject, so it is always a suspect: the last, if not before.
    known = {*_HARMLESS, *_GPU, *_MACHINE, *_OWN, *(p for ps in _OF_LAYER.values() for p in ps), "triton"}
    unheard = sorted(n for n in differing if n not in known)
    return tuple(n for n in dict.fromkeys([FAULT, *can, *unheard, SUITE, COMMIT]) if n in differing)


def _of_subject(subject: str) -> tuple[str, ...]:
    known = subjects.SUBJECTS.get(subject)
    if known is None:
        return (*_OWN, *_LOWERED_BY, "triton", "flash-attn-4", "quack-kernels", "nvidia-cutlass-dsl", *_GPU, *_MACHINE)
    own = reversed(known.packages)  # the outermost layer first
    quack = ("quack-kernels",) if "flash-attn-4" in known.packages else ()
    compiled = ("sympy",) if known.name != "torch-eager" else ()
    lowered = _OWN if known.is_reference else ()
    return (*_GPU, *lowered, *own, *quack, *compiled, *_MACHINE)


def of_pace(components: Sequence[Component], subject: str, *, gpu: bool) -> tuple[str, ...]:
    """The names of the changed components that can have made `subject` slower.

    The CPU is one of them on a GPU too, since it launches the kernels. The number of CPUs is one only on a CPU.
    """
    found = suspects(components, subject, gpu=gpu)
    more = tuple(c.name for c in components if c.differs and c.name == "cpus" and not gpu)
    return (*found, *more)


def told(components: Sequence[Component], names: Sequence[str]) -> str:
    """The suspects as text, such as "suspect driver 580.95 -> 590.12". Without `names`, the hardware or a flake."""
    by_name = {c.name: c for c in components}
    if names:
        return "suspect " + ", ".join(
            f"{n} {by_name[n].before or 'none'} -> {by_name[n].after or 'none'}" for n in names
        )
    differing = [c.name for c in components if c.differs]
    if differing:
        return f"what differs ({', '.join(differing)}) has no part in it: suspect the hardware or a flake"
    return "nothing that is recorded differs: suspect the hardware or a flake"
