"""A finding as a standalone script: only torch and the library at fault, ready to be pasted into an issue.

The script computes float64 attention itself, one score at a time, with the same source of the mods, and compares with
a bound that the oracle gave. It exits 1 while the defect is there, 0 when it is gone, 2 when it cannot be run.
"""

from __future__ import annotations

import dataclasses
import linecache
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import flexflash
from flexconf import devices, inputs, literals, modtext
from flexconf.case import Case
from flexconf.errors import InputError
from flexconf.inputs import Inputs
from flexconf.outcome import Outcome, Stage, Symptom
from flexconf.subjects import trial
from flexflash.kernel import ENTRY
from flexflash.template import BLOCK_LISTS

__all__ = ["CANNOT_RUN", "GONE", "THERE", "render"]

THERE, GONE, CANNOT_RUN = 1, 0, 2

_DEADLY = (Symptom.ILLEGAL_ACCESS, Symptom.TIMEOUT, Symptom.OUT_OF_MEMORY)
_CHILD_LIMIT = 300


def render(case: Case, subject: str, outcome: Outcome, *, width: int | None = None, exact: bool = False) -> str:
    """The text of the script for what `outcome` says of `case` on `subject`.

    With `exact`, tensors hold the case's own values; otherwise values of simple arithmetic in the same range take their
    place where those are many. `width` is the vector width of a subject that can be told. Raises InputError.
    """
    make = TEMPLATES.get(subject)
    if make is None:
        make = _project
    return make(case, subject, outcome, width, exact)


# ------------------------------------------------------------------------------------------------------- the mods


def _mod_source(mod: Callable[..., Tensor], kind: str) -> tuple[str, tuple[str, ...]]:
    """(source of a factory `make_<kind>_mod`, its parameters), as `modtext.compile_mod` wrote it."""
    lines = linecache.getlines(mod.__code__.co_filename)
    source = "".join(lines)
    found = re.match(r"def make_mod\((.*)\):", source)
    assert found is not None
    parameters = tuple(name.strip() for name in found[1].split(",") if name.strip())
    return source.replace("def make_mod(", f"def make_{kind}_mod(", 1), parameters


@dataclass(frozen=True)
class _Parts:
    """What the template is filled with."""

    given: Inputs
    qkv: list[str]
    captures: list[str]
    mods: dict[str, tuple[str, tuple[str, ...]]]


def _parts(case: Case, exact: bool) -> _Parts:
    """The pieces of the script, and inputs that hold what the script makes."""
    original = inputs.materialize(case)
    qkv, tensors = literals.qkv(case, original, exact)
    captured, captures = literals.captures(case, original, exact)
    mods: dict[str, tuple[str, tuple[str, ...]]] = {}
    functions: dict[modtext.Kind, inputs.Mod] = {}
    texts: dict[modtext.Kind, str | None] = {"score": case.score_mod, "mask": case.mask_mod}
    for kind, text in texts.items():
        if text is not None:
            functions[kind] = modtext.compile_mod(text, kind, captures, case.constants(), f"{case.name} repro")
            mods[kind] = _mod_source(functions[kind], kind)
    rebuilt = inputs.materialize(case, functions=functions)
    given = dataclasses.replace(rebuilt, q=tensors["q"], k=tensors["k"], v=tensors["v"], captures=captures)
    return _Parts(given, qkv, captured, mods)


def _block_lines(case: Case, given: Inputs) -> list[str]:
    block, p = case.block, case.problem
    if given.block_mask is None:
        return ["block_mask = None"]
    mask = "mask_mod" if case.mask_mod is not None else "None"
    if block.kind == "from_mask":
        heads = "None, None" if block.broadcast else f"{p.B}, {p.H}"
        return [
            f"block_mask = create_block_mask(mask_mod, {heads}, {p.M}, {p.N}, device=DEVICE, "
            f"BLOCK_SIZE=({block.q}, {block.kv}))"
        ]
    lists = given.block_mask
    named = {
        "kv_num": lists.kv_num_blocks, "kv_idx": lists.kv_indices,
        "full_num": lists.full_kv_num_blocks, "full_idx": lists.full_kv_indices,
    }  # fmt: skip
    lines = [
        f"{name} = torch.tensor({literals.nested(t.tolist())}, dtype=torch.int32, device=DEVICE)"
        for name, t in named.items()
        if t is not None
    ]
    lines.append(
        f"block_mask = BlockMask.from_kv_blocks({', '.join(n if t is not None else 'None' for n, t in named.items())}, "
        f"BLOCK_SIZE=({block.q}, {block.kv}), mask_mod={mask}, seq_lengths=({p.M}, {p.N}))"
    )
    return lines


def _attended_lines(case: Case, given: Inputs) -> list[str]:
    """The body of `attended(b, h, m, n)`: block lists first, then the mask_mod."""
    asked = "bool(mask_mod(*at(b, h, m, n)))" if case.mask_mod is not None else "True"
    if given.block_mask is None or case.block.kind == "from_mask":
        return [f"return {asked}"]
    full = given.block_mask.full_kv_indices is not None
    return [
        f"row, column = m // {case.block.q}, n // {case.block.kv}",
        "def listed(count, index):",
        "    i, j = min(b, count.shape[0] - 1), min(h, count.shape[1] - 1)",
        "    return column in index[i, j, row, : int(count[i, j, row])].tolist()",
        *(["if listed(full_num, full_idx):", "    return True"] if full else []),
        f"return listed(kv_num, kv_idx) and {asked}",
    ]


# ------------------------------------------------------------------------------------------------------ the script

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


def _standalone(
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
    """The script. `functions` are what `call`, or `first`, which `main` begins with, calls; `standard` they import."""
    parts = _parts(case, exact)
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
        title=_title(case, subject, outcome),
        about=_about(outcome),
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
        blocks="\n".join([*made, *_block_lines(case, parts.given)]),
        call=call,
        wide="\n".join(wide),
        attended="\n".join("        " + line for line in _attended_lines(case, parts.given)),
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
    """A cell of a mod for the reference: on the CPU, a float in float64."""
    capture = next((c for c in case.captures if c.name == name), None)
    if capture is None:
        return name
    return f"{name}.detach().cpu().double()" if "float" in capture.dtype else f"{name}.cpu()"


def _bounds(
    given: Inputs, outcome: Outcome, exact: bool
) -> tuple[dict[str, float], tuple[str, tuple[int, ...]] | None, list[tuple[int, ...]]]:
    """(bound by tensor, the one element to look at, rows to leave out) for the inputs of the script.

    Of the case's own values the worst element and its bound are known; of others the largest bound serves for all.
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
    # An error over a bound of 0 asks for equality; 0 / 0 is no number.
    return {name: max(bound, 1e-300) for name, bound in bounds.items()}, None, skipped


def _title(case: Case, subject: str, outcome: Outcome) -> str:
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


def _about(outcome: Outcome) -> str:
    said = " ".join(outcome.message.split())[:600]
    return _quoted(f"Seen with torch {torch.__version__}: {said}")


def _quoted(text: str) -> str:
    """Text that may stand in a docstring."""
    return text.replace("\\", "/").replace('"""', "'''")


_WHAT = {
    "torch-flash": 'flex_attention, BACKEND "FLASH"',
    "torch-triton": 'flex_attention, BACKEND "TRITON"',
    "torch-eager": "flex_attention, eager",
    "torch-codegen": "flex_attention's CuTeDSL code generator",
    "reference.fa4": "flash-attn-4, mods in CuTeDSL",
}

_GUARD = """
try:
    import torch
    from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention{more}
except ImportError as error:
    print(f"cannot be run: {{error}}")
    sys.exit(2)"""

_NEEDS_GPU = """
if not torch.cuda.is_available():
    print("cannot be run: it needs a GPU")
    sys.exit(2)"""

_CALL = """\
    return {function}(
        q, k, v, score_mod={score}, block_mask=block_mask, scale={scale}, enable_gqa=H != Hkv, return_lse=True{options}
    )"""


def _call(case: Case, backend: str | None) -> str:
    compiled = "torch.compile(flex_attention, dynamic=False, fullgraph=True)"
    return _CALL.format(
        function="flex_attention" if backend is None else compiled,
        score="score_mod" if case.score_mod is not None else "None",
        scale=literals.number(case.problem.effective_scale),
        options=f', kernel_options={{"BACKEND": "{backend}"}}' if backend is not None else "",
    )


def _flash(case: Case, subject: str, outcome: Outcome, width: int | None, exact: bool) -> str:
    guard = _GUARD.format(more="\n    import flash_attn.cute.interface") + _NEEDS_GPU
    return _standalone(case, subject, outcome, exact, '"cuda"', guard, _call(case, "FLASH"))


def _triton(case: Case, subject: str, outcome: Outcome, width: int | None, exact: bool) -> str:
    guard = _GUARD.format(more="\n    import triton") + _NEEDS_GPU
    return _standalone(case, subject, outcome, exact, '"cuda"', guard, _call(case, "TRITON"))


def _eager(case: Case, subject: str, outcome: Outcome, width: int | None, exact: bool) -> str:
    on_gpu = devices.count() > 0
    guard = _GUARD.format(more="") + (_NEEDS_GPU if on_gpu else "")
    return _standalone(case, subject, outcome, exact, '"cuda"' if on_gpu else '"cpu"', guard, _call(case, None))


def _codegen(case: Case, subject: str, outcome: Outcome, width: int | None, exact: bool) -> str:
    """With a GPU, what a user does; without one, the project runs what torch generates."""
    device = '"cuda" if torch.cuda.is_available() else "cpu"'
    fallback = _THROUGH_THE_PROJECT.format(subject=subject, toml=case.to_toml(), width=width)
    guard = _GUARD.format(more="")
    return _standalone(case, subject, outcome, exact, device, guard, _call(case, "FLASH"), fallback, _FIRST)


_FA4_CALL = "    return through_flash_attention()"

_FA4 = '''\
# The mods in CuTeDSL, as flexflash renders them, and the call.
KERNEL = r{text}


class FlashAttention:
    """What the kernel is handed to: flash-attn-4 itself."""

    forward = staticmethod(_flash_attn_fwd)

    @staticmethod
    def block_sparse_tensors(count, index, full_count, full_index, block_size):
        return BlockSparseTensorsTorch(count, index, full_count, full_index, block_size=block_size)


def through_flash_attention():
    """(out, LSE) as flash-attn-4 writes them."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.py")
        with open(path, "w") as file:
            file.write(KERNEL)
        spec = importlib.util.spec_from_file_location("kernel", path)
        kernel = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(kernel)
        out = torch.empty_strided({size}, {stride}, dtype=q.dtype)
        lse = torch.empty((B, H, M), dtype=torch.float32)
        kernel.{entry}(
            FlashAttention, Q=q, K=k, V=v, OUT=out, LSE=lse,
{named}        )
        torch.cuda.synchronize()
    return out, lse'''


def _fa4(case: Case, subject: str, outcome: Outcome, width: int | None, exact: bool) -> str:
    """The rendered text and flash-attn-4, without this project: what fails there is not the harness."""
    kernel, names = _rendered(case, exact, width)
    held = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
    if kernel.block_lists:
        names |= {name: f"block_mask.{field}" for name, field in zip(BLOCK_LISTS, held, strict=True)}
    call = _FA4.format(
        text=f"'''{kernel.text}'''",
        size=kernel.output_size,
        stride=kernel.output_stride,
        entry=ENTRY,
        named="".join(f"            {parameter}={name},\n" for parameter, name in names.items()),
    )
    guard = _GUARD.format(
        more="\n    from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch"
        "\n    from flash_attn.cute.interface import _flash_attn_fwd"
    )
    return _standalone(
        case, subject, outcome, exact, '"cuda"', guard + _NEEDS_GPU, _FA4_CALL, call,
        standard=frozenset({"importlib.util", "os", "tempfile"}),
    )  # fmt: skip


def _rendered(case: Case, exact: bool, width: int | None) -> tuple[flexflash.RenderedKernel, dict[str, str]]:
    """The kernel, which is the same text on a CPU; and for each of its captures the script's name."""
    given = _parts(case, exact).given
    options: dict[str, object] = {} if width is None else {"SCORE_MOD_VEC_SIZE": width}
    kernel = flexflash.lower(given.q, given.k, given.v, given.score_mod, given.block_mask, given.scale, options)
    names = {}
    for buffer, tensor in zip(kernel.buffers, kernel.captures, strict=True):
        same = [n for n, t in given.captures.items() if _is_view(t, tensor)]
        if not same:
            raise InputError(f"{case.name}: the kernel reads {buffer}, which is none of the case's captures")
        names[buffer] = same[0]
    return kernel, names


def _is_view(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same view of the same memory."""
    facts = [(t.data_ptr(), t.dtype, t.shape, t.stride()) for t in (a, b)]
    return facts[0] == facts[1]


_FIRST = """\
    if DEVICE == "cpu":
        return through_the_project()
"""

_THROUGH_THE_PROJECT = '''\
def through_the_project():
    """Without a GPU: what torch generates, compiled for the CPU by the CuTe DSL compiler. Needs
    flexflash-conformance."""
    try:
        from flexconf import catalogue, subjects
        from flexconf.isolated import Isolated
        from flexconf.subjects.trial import Options
    except ImportError as error:
        print(f"cannot be run: no GPU, and {{error}}")
        return 2
    why = subjects.get({subject!r}).why_not()
    if why:
        print(f"cannot be run: {{why}}")
        return 2
    (case,) = catalogue.load_text(CASE, "repro")
    with Isolated(prepare={subject!r}) as isolated:
        outcome = isolated.run(case, {subject!r}, Options(vector_width={width}))
    print(f"{{'gone' if outcome.ok else 'there'}}: {{outcome.stage}}/{{outcome.symptom}}: {{outcome.message}}")
    return 0 if outcome.ok else 1


CASE = r"""
{toml}"""'''


_PROJECT = '''\
"""{title}

{about}

It needs flexflash-conformance. Exit code: 1 while the defect is there, 0 when it is gone, 2 when it cannot be run here.
"""

import sys

try:
    from flexconf import catalogue, subjects
    from flexconf.isolated import Isolated
    from flexconf.subjects.trial import Options
except ImportError as error:
    print(f"cannot be run: {{error}}")
    sys.exit(2)

SUBJECT = {subject!r}
CASE = r"""
{toml}"""


def main():
    why = subjects.get(SUBJECT).why_not()
    if why:
        print(f"cannot be run: {{why}}")
        return 2
    (case,) = catalogue.load_text(CASE, "repro")
    with Isolated(prepare=SUBJECT) as isolated:
        outcome = isolated.run(case, SUBJECT, Options(vector_width={width}))
    print(f"{{'gone' if outcome.ok else 'there'}}: {{outcome.stage}}/{{outcome.symptom}}: {{outcome.message}}")
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
'''


def _project(case: Case, subject: str, outcome: Outcome, width: int | None, exact: bool) -> str:
    return _PROJECT.format(
        title=_title(case, subject, outcome),
        about=_about(outcome),
        subject=subject,
        toml=case.to_toml(),
        width=width,
    )


Template = Callable[[Case, str, Outcome, "int | None", bool], str]

TEMPLATES: Mapping[str, Template] = {
    "torch-flash": _flash,
    "torch-triton": _triton,
    "torch-eager": _eager,
    "torch-codegen": _codegen,
    "reference.fa4": _fa4,
}
"""By subject; for any other the script runs the case through the project."""
