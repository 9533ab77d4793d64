"""Decides whether a text is a kernel as torch's CuTeDSL template renders it. Only such a text is ever executed.

A recorded kernel comes from another machine. Its syntax tree may hold nothing but the forms that torch renders for
BACKEND FLASH at capability 9.0: a fixed set of imports, one function that calls flash-attn-4's forward, and inside it
`score_mod` and `mask_mod`, which compute with CuTe's operations on their arguments. Every name that a function reads is
bound in it; every call is on the list below. torch's helper module is held to the same rules.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from flexconf.errors import InputError

HELPERS = "torch._inductor.codegen.cutedsl._cutedsl_utils"
"""torch's module of helper functions. Every kernel imports them from it."""
LONGEST = 1_000_000
"""The most characters of a text."""

_HELPER_NAMES = frozenset({"result_to_ssa", "ssa_to_fragment", "ssa_to_indexable"})
_IMPORTS = frozenset({
    "import torch",
    "import cutlass",
    "import cutlass.cute as cute",
    "from cutlass.cute.runtime import from_dlpack",
    "import cuda.bindings.driver as cuda",
    "from cutlass._mlir.dialects import math as mlir_math",
    "import operator",
    f"from {HELPERS} import result_to_ssa, ssa_to_fragment, ssa_to_indexable",
})  # fmt: skip
_INNER_IMPORTS = frozenset({
    "from flash_attn.cute.interface import _flash_attn_fwd",
    "from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch",
})  # fmt: skip
_HELPER_IMPORTS = frozenset({"import cutlass", "import cutlass.cute as cute"})
_MODULES = frozenset({"cutlass", "cute", "operator", "mlir_math"})
_BUILTINS = frozenset({"float", "list"})
_FORWARD = frozenset({"_flash_attn_fwd", "BlockSparseTensorsTorch"})
_KEPT = frozenset({"torch", "from_dlpack", "cuda", *_MODULES, *_BUILTINS, *_FORWARD, *_HELPER_NAMES})
"""Names that no statement may bind anew."""

_DTYPES = "Boolean Int8 Int16 Int32 Int64 Uint8 Uint16 Uint32 Uint64 Float16 BFloat16 Float32 Float64".split()
_NAMED = frozenset({
    *(f"cutlass.{dtype}" for dtype in _DTYPES), "cutlass.range", "cutlass.const_expr",
    *(f"cute.{name}" for name in "TensorSSA Tensor Numeric full_like jit make_rmem_tensor size where".split()),
    *(f"operator.{name}" for name in "eq ne lt le gt ge".split()),
})  # fmt: skip
_MATH = re.compile(r"(cute\.math|mlir_math)\.[a-z][a-z0-9_]*")
_MEMBERS = frozenset("shape dtype load store to transpose new_zeros".split())
_MARKS = frozenset("__cute_hash__ __vec_size__ __leading_dim__ __assumed_align__".split())

_EXPRESSIONS = (
    ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Tuple, ast.List, ast.Subscript, ast.Slice,
    ast.keyword, ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


def check_kernel(text: str, what: str = "the kernel") -> str:
    """Returns the name of the kernel's main function. Raises InputError, with `what` and a line, for any other text."""
    tree = _parsed(text, what)
    *imports, main = tree.body if tree.body else [ast.Pass()]
    _only_imports(imports, _IMPORTS, what)
    if not isinstance(main, ast.FunctionDef) or main.decorator_list:
        raise _strange(main, what, "the last statement must be the kernel's main function")
    _Function(what, None).main(main)
    return main.name


def check_helpers(text: str, what: str = "the helpers") -> None:
    """Raises InputError unless `text` is a module of helper functions in the forms that torch's kernels have."""
    tree = _parsed(text, what)
    functions = [s for s in tree.body if isinstance(s, ast.FunctionDef)]
    _only_imports([s for s in tree.body if not isinstance(s, ast.FunctionDef)], _HELPER_IMPORTS, what)
    names = {f.name for f in functions}
    if not names or not names <= _HELPER_NAMES:
        raise InputError(f"{what}: its functions are {', '.join(sorted(names)) or 'none'}, not torch's helpers")
    for function in functions:
        _Function(what, None).jitted(function)


def _parsed(text: str, what: str) -> ast.Module:
    if len(text) > LONGEST:
        raise InputError(f"{what}: {len(text):,} characters; a rendered kernel has at most {LONGEST:,}")
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{what}: not Python: {error}") from None


def _only_imports(statements: Iterable[ast.stmt], allowed: frozenset[str], what: str) -> None:
    for statement in statements:
        if not isinstance(statement, ast.Import | ast.ImportFrom) or ast.unparse(statement) not in allowed:
            raise _strange(statement, what, "a rendered kernel imports only what torch's template imports")


def _strange(node: ast.AST, what: str, why: str) -> InputError:
    line = getattr(node, "lineno", 1)
    try:
        shown = ast.unparse(node).partition("\n")[0][:80]
    except (ValueError, AttributeError, RecursionError):
        shown = type(node).__name__
    return InputError(f"{what}, line {line}: {shown!r} is nothing that torch renders: {why}; it is not run")


class _Function:
    """Checks one function. `outer` holds the names that the enclosing function has bound so far."""

    def __init__(self, what: str, outer: frozenset[str] | None) -> None:
        self.what = what
        self.bound: set[str] = set(outer or ())

    def main(self, function: ast.FunctionDef) -> None:
        self._arguments(function, annotated=False)
        for statement in function.body:
            match statement:
                case ast.ImportFrom() if ast.unparse(statement) in _INNER_IMPORTS:
                    self.bound |= {alias.name for alias in statement.names}
                case ast.FunctionDef(name="score_mod" | "mask_mod"):
                    _Function(self.what, None).jitted(statement)
                    self.bound.add(statement.name)
                case ast.Expr(value=ast.Call(func=ast.Name(id="_flash_attn_fwd"))):
                    self._expression(statement.value)
                case ast.Assign(targets=[ast.Attribute(value=ast.Name(id=name), attr=mark)]) if (
                    mark in _MARKS and name in self.bound
                ):
                    self._expression(statement.value)
                case _:
                    self._assignment(statement)

    def jitted(self, function: ast.FunctionDef) -> None:
        """A function with the decorator `@cute.jit`. It sees its arguments and the imports, and nothing else."""
        if [ast.unparse(d) for d in function.decorator_list] != ["cute.jit"]:
            raise _strange(function, self.what, "a mod is decorated with cute.jit alone")
        self._arguments(function, annotated=True)
        body = function.body
        if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body = body[1:]  # a docstring
        self._block(body)

    def _block(self, statements: Iterable[ast.stmt]) -> None:
        for statement in statements:
            match statement:
                case ast.Return(value=ast.expr() as value):
                    self._expression(value)
                case ast.For(target=ast.Name(id=name), iter=ast.Call(func=ranged), orelse=[]) if (
                    ast.unparse(ranged) == "cutlass.range"
                ):
                    self._expression(statement.iter)
                    self._bind(statement.target, name)
                    self._block(statement.body)
                case ast.If(test=ast.Call(func=tested), orelse=[]) if ast.unparse(tested) == "cutlass.const_expr":
                    self._expression(statement.test)
                    self._block(statement.body)
                case ast.Expr(value=ast.Call(func=ast.Attribute(attr="store"))):
                    self._expression(statement.value)
                case _:
                    self._assignment(statement)

    def _assignment(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name) as target], value=value):
                self._expression(value)
                self._bind(target, name)
            case ast.Assign(targets=[ast.Subscript(value=ast.Name()) as target], value=value):
                self._expression(value)
                self._expression(target)
            case _:
                raise _strange(statement, self.what, "no such statement occurs there")

    def _arguments(self, function: ast.FunctionDef, *, annotated: bool) -> None:
        a = function.args
        if a.posonlyargs or a.kwonlyargs or a.vararg or a.kwarg or any(ast.unparse(d) != "None" for d in a.defaults):
            raise _strange(function, self.what, "its arguments are plain names")
        annotations = [n.annotation for n in a.args if n.annotation is not None]
        annotations += [function.returns] if function.returns is not None else []
        if annotations and not annotated:
            raise _strange(function, self.what, "its arguments have no annotations")
        for annotation in annotations:
            if ast.unparse(annotation) not in ("str", "cute.TensorSSA", "cute.Tensor", "cute.Numeric"):
                raise _strange(annotation, self.what, "no such annotation occurs there")
        for argument in a.args:
            self._bind(argument, argument.arg)

    def _bind(self, node: ast.AST, name: str) -> None:
        if name in _KEPT or name.startswith("__"):
            raise _strange(node, self.what, f"{name} may not be bound")
        self.bound.add(name)

    def _expression(self, node: ast.AST) -> None:
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str()):
                return
            case ast.Name(id=name) if name in self.bound:
                return
            case ast.Attribute():
                self._attribute(node)
            case ast.Call(func=func, args=arguments, keywords=keywords):
                self._called(func)
                for argument in arguments:
                    self._expression(argument)
                for keyword in keywords:
                    if keyword.arg is None:
                        raise _strange(node, self.what, "no arguments are unpacked there")
                    self._expression(keyword.value)
            case _ if isinstance(node, _EXPRESSIONS):
                for child in ast.iter_child_nodes(node):
                    self._expression(child)
            case _:
                raise _strange(node, self.what, "no such expression occurs there")

    def _attribute(self, node: ast.Attribute) -> None:
        text = ast.unparse(node)
        if text in _NAMED or _MATH.fullmatch(text):
            return
        if node.attr not in _MEMBERS:
            raise _strange(node, self.what, "no such attribute occurs there")
        self._expression(node.value)

    def _called(self, func: ast.expr) -> None:
        match func:
            case ast.Name(id=name) if name in _BUILTINS or name in _HELPER_NAMES:
                return
            case ast.Name(id=name) if name in _FORWARD and name in self.bound:
                return
            case ast.Attribute():
                self._attribute(func)
            case _:
                raise _strange(func, self.what, "no such function is called there")
