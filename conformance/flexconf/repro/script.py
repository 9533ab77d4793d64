"""The template of the standalone script, its bounds and its title."""

from __future__ import annotations

import math
import re

import torch

from flexconf.cases.case import Case
from flexconf.inputs import Inputs
from flexconf.repro.parts import attended_lines, block_lines
from flexconf.repro.parts import parts as parts_of
from flexconf.subjects import trial
from flexconf.verdict.outcome import Outcome, Stage, Symptom

_DEADLY = (Symptom.ILLEGAL_ACCESS, Symptom.TIMEOUT, Symptom.OUT_OF_MEMORY)
_CHILD_LIMIT = 300

_PLAIN = '''\
"""{title}

{about}

Exit code: 1 while the defect is there, 0 when it is gone, 2 when it cannot be run here.
"""

{imports}
{guard}

DEVICE = {device}
{sizes}
inf, nan, pi = math.inf, math.nan, math.pi
{unpack}

{to_device}
{tensors}


{mods}

{blocks}


def observed():
    """(out, LSE) of what is tested."""
{call}


def reference():
    """(out, LSE) in float64 on the CPU, one score at a time."""
    torch.set_default_device("cpu")
    torch.set_default_dtype(torch.float64)
{wide}
    index = [torch.tensor(i, dtype=torch.int32) for i in range(max(B, H, M, N))]

    def at(b, h, m, n):
        return index[b], index[h], index[m], index[n]

    def attended(b, h, m, n):
{attended}

    keys, values = (x.cpu().double().repeat_interleave(H // Hkv, 1) for x in (k, v))
    scores = {scale} * (q.cpu().double() @ keys.transpose(-1, -2))
    for b, h, m, n in itertools.product(range(B), range(H), range(M), range(N)):
        score = {modified}
        scores[b, h, m, n] = score if attended(b, h, m, n) else -inf
    lse = torch.logsumexp(scores, -1)
    weights = torch.where((lse == -inf).unsqueeze(-1), 0.0, torch.exp(scores - lse.unsqueeze(-1)))
    torch.set_default_dtype(torch.float32)
    return weights @ values, lse


BOUNDS = {bounds}  # what rounding allows, from a certified error analysis of these inputs
ONLY = {only}  # (tensor, index) of the element that is looked at; None for every one
SKIPPED = {skipped}  # rows (b, h, m) whose value is open: a float decides a comparison within its rounding error


def worst(name, seen, wanted, bound):
    """(error over bound, sentence) of the worst element."""
    dtype = q.dtype if name == "out" else torch.float32
    if seen.shape != wanted.shape or seen.dtype != dtype:
        found = f"{{seen.dtype}} of shape {{tuple(seen.shape)}}"
        return inf, f"{{name}} is {{found}}, expected {{dtype}} of shape {{tuple(wanted.shape)}}"
    seen = seen.detach().cpu().double()
    same = (seen == wanted) | (seen.isnan() & wanted.isnan())
    special = ~(seen.isfinite() & wanted.isfinite())
    ratio = torch.where(same, 0.0, torch.where(special, inf, (seen - wanted).abs() / bound))
    for row in SKIPPED:
        ratio[row] = 0.0
    if ONLY is not None:
        here = torch.zeros_like(ratio)
        if ONLY[0] == name:
            here[ONLY[1]] = ratio[ONLY[1]]
        ratio = here
    if not ratio.numel():
        return 0.0, f"{{name}} is empty"
    at = tuple(int(i) for i in torch.unravel_index(ratio.argmax(), ratio.shape))
    where = ", ".join(map(str, at))
    return float(ratio[at]), (
        f"{{name}}[{{where}}] is {{float(seen[at]):.9g}}, expected {{float(wanted[at]):.9g}} +- {{bound:.3g}}"
    )
{functions}

def main():
{first}{run}
    if out is None or lse is None:
        print(f"there: {{'the LSE' if lse is None else 'the output'}} was not returned")
        return 1
    wanted = dict(zip(("out", "lse"), reference()))
    found = [worst(name, x, wanted[name], BOUNDS[name]) for name, x in (("out", out), ("lse", lse))]
    for ratio, sentence in found:
        print(f"{{sentence}}; {{ratio:.3g}} times the bound")
    if max(ratio for ratio, _ in found) > 1:
        print("there: {seen}")
        return 1
    print("gone: every element is within its bound")
    return 0


{entry}
'''

_ENTRY = """\
if __name__ == "__main__":
    print(f"torch {torch.__version__}, {DEVICE}")
    sys.exit(main())"""

_CHILD_ENTRY = """\
if __name__ == "__main__":
    if "--child" in sys.argv:
        sys.exit(main())
    # What is shown may end its process, or never end.
    print(f"torch {{torch.__version__}}, {{DEVICE}}", flush=True)
    try:
        code = subprocess.run([sys.executable, __file__, "--child"], timeout={limit}).returncode
    except subprocess.TimeoutExpired:
        print("there: it does not end within {limit} s")
        sys.exit(1)
    if code not in (0, 1, 2):
        print(f"there: it ends its process with exit code {{code}}")
    sys.exit(code if code in (0, 1, 2) else 1)"""

_RUN = """\
    try:
        out, lse = observed()
    except Exception as error:
        print(f"{what}: {{type(error).__name__}}: {{' '.join(str(error).split())[:500]}}")
        return {code}"""

_UNPACK = '''

def unpacked(dtype, shape, code):
    """A tensor of the bytes that `code` holds."""
    raw = bytearray(zlib.decompress(base64.b64decode(code)))
    return torch.frombuffer(raw, dtype=torch.uint8).view(dtype).view(shape).to(DEVICE)
'''


def standalone(
    case: Case,
    subject: str,
    outcome: Outcome,
    exact: bool,
    device: str,
    guard: str,
    call: str,
    functions: str = "",
    first: str = "",
    standard: frozenset[str] = frozenset(),
) -> str:
    """The text of the script.

    `device` is the expression for DEVICE. `guard` are the imports and checks that exit with 2 if the script cannot run.
    `call` is the body of `observed`. `first` are the first lines of `main`. `functions` define functions that `call` or
    `first` call, and `standard` names the modules of the standard library that these functions use.
    """
    parts = parts_of(case, exact)
    p = case.problem
    raises = outcome.symptom in (Symptom.REFUSED, Symptom.CRASH, *_DEADLY)
    deadly = outcome.symptom in _DEADLY or "ended by" in outcome.message
    bounds, only, skipped = _bounds(parts.given, outcome, exact)
    factories = "\n\n".join(source.rstrip() for source, _ in parts.mods.values())
    made = [f"{kind}_mod = make_{kind}_mod({', '.join(names)})" for kind, (_, names) in parts.mods.items()]
    wide = [
        f"    {kind}_mod = make_{kind}_mod({', '.join(_widened(n, case) for n in names)})"
        for kind, (_, names) in parts.mods.items()
    ]
    moved = "" if device == '"cpu"' else "torch.set_default_device(DEVICE)"
    tensors = "\n".join([*parts.qkv, *parts.captures])
    packed = "unpacked(" in tensors
    imported = {"itertools", "math", "sys"} | standard
    imported |= ({"subprocess"} if deadly else set()) | ({"base64", "zlib"} if packed else set())
    modified = "scores[b, h, m, n]"
    if case.score_mod is not None:
        modified = f"score_mod({modified}, *at(b, h, m, n))"
    seen = " ".join(outcome.message.split())[:200].replace('"', "'").replace("\\", "/")
    code = 1 if raises else 2
    what = "there" if raises else "it fails in another way than expected"
    text = _PLAIN.format(
        title=title_of(case, subject, outcome),
        about=about_of(outcome),
        functions=f"\n\n{functions}\n" if functions else "",
        first=first,
        imports="\n".join(f"import {name}" for name in sorted(imported)),
        guard=guard,
        device=device,
        sizes="\n".join(f"{name} = {value}" for name, value in p.symbols().items()),
        unpack=_UNPACK if packed else "",
        tensors=tensors,
        to_device=moved,
        mods=factories,
        blocks="\n".join([*made, *block_lines(case, parts.given)]),
        call=call,
        wide="\n".join(wide),
        attended="\n".join("        " + line for line in attended_lines(case, parts.given)),
        scale=repr(p.effective_scale),
        modified=modified,
        bounds=repr(bounds),
        only=repr(only),
        skipped=repr(skipped),
        run=_RUN.format(what=what, code=code),
        seen=seen.replace("{", "(").replace("}", ")"),
        entry=_CHILD_ENTRY.format(limit=_CHILD_LIMIT) if deadly else _ENTRY,
    )
    return re.sub(r"\n{4,}", "\n\n\n", text)


def _widened(name: str, case: Case) -> str:
    """A cell of a mod as an expression for the reference: captures move to the CPU, float captures become float64."""
    capture = next((c for c in case.captures if c.name == name), None)
    if capture is None:
        return name
    return f"{name}.detach().cpu().double()" if "float" in capture.dtype else f"{name}.cpu()"


def _bounds(
    given: Inputs, outcome: Outcome, exact: bool
) -> tuple[dict[str, float], tuple[str, tuple[int, ...]] | None, list[tuple[int, ...]]]:
    """(bound by tensor, the one element to look at, rows to leave out) for the inputs of the script.

    With `exact`, the script looks at the worst element of `outcome`, with that element's bound. Otherwise, or if there
    is no worst element, the element is None and the largest bound of a tensor serves for all its elements.
    """
    certified = trial.certify(given, trial.Options())
    worst = (outcome.comparison or {}).get("worst")
    open_rows = certified.excluded | (certified.out_bound == math.inf).any(-1) | (certified.lse_bound == math.inf)
    skipped = [tuple(row) for row in open_rows.nonzero().tolist()]
    bounds = {}
    for name, bound in (("out", certified.out_bound), ("lse", certified.lse_bound)):
        finite = bound[~open_rows]
        bounds[name] = float(f"{float(finite.max()):.4g}") if finite.numel() else 0.0
    if exact and worst is not None and worst["tensor"] in bounds and isinstance(worst["bound"], float):
        bounds[worst["tensor"]] = max(worst["bound"], 1e-300)
        return bounds, (worst["tensor"], tuple(worst["index"])), skipped
    # The script divides errors by the bound. A bound of 0 becomes 1e-300: it still asks for equality, without 0 / 0.
    return {name: max(bound, 1e-300) for name, bound in bounds.items()}, None, skipped


def title_of(case: Case, subject: str, outcome: Outcome) -> str:
    mods = " and ".join(
        f"{kind} `{' ; '.join(text.split(chr(10)))}`"
        for kind, text in (("score_mod", case.score_mod), ("mask_mod", case.mask_mod))
        if text is not None
    )
    how = {
        Symptom.WRONG: "wrong values", Symptom.WRONG_BASE: "a logarithm of another base",
        Symptom.NONFINITE: "NaN or infinity", Symptom.REFUSED: "refused", Symptom.CRASH: "an error",
        Symptom.MISSING: "no result", Symptom.NONDETERMINISTIC: "results that differ",
        Symptom.ILLEGAL_ACCESS: "an illegal memory access", Symptom.TIMEOUT: "no end",
        Symptom.OUT_OF_MEMORY: "out of memory",
    }.get(outcome.symptom, str(outcome.symptom))  # fmt: skip
    part = " in the LSE" if outcome.stage is Stage.LSE else ""
    return _quoted(f"{_WHAT.get(subject, subject)}: {how}{part} for {mods or 'no mod'}.")


def about_of(outcome: Outcome) -> str:
    said = " ".join(outcome.message.split())[:600]
    code = "" if outcome.capability is None else f", in the code for compute capability {outcome.capability}"
    return _quoted(f"Seen with torch {torch.__version__}{code}: {said}")


def _quoted(text: str) -> str:
    """`text` without backslashes and triple quotes, so that it can stand in a docstring."""
    return text.replace("\\", "/").replace('"""', "'''")


_WHAT = {
    "torch-flash": 'flex_attention, BACKEND "FLASH"',
    "torch-triton": 'flex_attention, BACKEND "TRITON"',
    "torch-eager": "flex_attention, eager",
    "torch-codegen": "flex_attention's CuTeDSL code generator",
    "reference.fa4": "flash-attn-4, mods in CuTeDSL",
}

GUARD = """
try:
    import torch
    from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention{more}
except ImportError as error:
    print(f"cannot be run: {{error}}")
    sys.exit(2)"""

NEEDS_GPU = """
if not torch.cuda.is_available():
    print("cannot be run: it needs a GPU")
    sys.exit(2)"""
