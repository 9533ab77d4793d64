"""A folder of recorded kernels: their texts, the arguments of each call, and the outcome on the recording machine.

    bundle.json        versions, and for each case: digests, outcome, the SHA-256 of its kernel's text, its arguments
    cases.toml         the cases
    helpers.py         torch's helper functions, which the kernels import
    kernels/NAME.py    one kernel a case, as torch rendered it

Everything is text. Tensors that are no input of the case, such as block lists and captures that torch computes, are
kept in `bundle.json` as base64.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flexconf.cases import catalogue
from flexconf.cases.case import Case
from flexconf.errors import InputError
from flexconf.machine import files
from flexconf.replay import kernel_text
from flexconf.verdict.outcome import Outcome

if TYPE_CHECKING:
    from flexconf.inputs import Inputs

FORMAT = 1
MANIFEST, CASES, HELPERS, KERNELS = "bundle.json", "cases.toml", "helpers.py", "kernels"
LARGEST = 16_000_000
"""The most bytes of a tensor that is kept by value."""

_RECORD = "record the bundle again with `flexconf codegen record`"


@dataclass(frozen=True)
class Argument:
    """One argument of a kernel's main function.

    `of` is "q", "k", "v", "out", "lse", or "capture:NAME" for a view of that tensor; "value" for a tensor kept in
    `data` (the bytes of its storage from its first to its last element); "stream" for the CUDA stream. `shape`,
    `stride` and `offset` are in elements. `offset` counts from the start of the storage of an input, and is 0 for the
    other tensors. `dtype` is a torch dtype without the prefix.
    """

    name: str
    of: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    offset: int = 0
    data: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "shape": list(self.shape), "stride": list(self.stride)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str) -> Argument:
        """Reads `to_json`'s form. Raises InputError, with `where`, if a field is missing or has another type."""
        texts = [data.get(key) for key in ("name", "of", "dtype", "data")]
        shape, stride, offset = data.get("shape"), data.get("stride"), data.get("offset")
        whole = [*shape, *stride, offset] if isinstance(shape, list) and isinstance(stride, list) else [None]
        right = all(isinstance(t, str) for t in texts) and all(type(n) is int and n >= 0 for n in whole)
        if not right or set(data) != set(cls("", "").to_json()) or len(shape or ()) != len(stride or ()):
            raise InputError(f"{where}: an argument is not as it was written; {_RECORD}")
        name, of, dtype, kept = (str(t) for t in texts)
        return cls(name, of, dtype, tuple(shape or ()), tuple(stride or ()), int(offset or 0), kept)

    @classmethod
    def kept(cls, name: str, tensor: Tensor) -> Argument:
        """A tensor that is no input of the case, by value. Raises InputError if it has more than `LARGEST` bytes."""
        span = _span(tensor.shape, tensor.stride())
        if span * tensor.element_size() > LARGEST:
            raise InputError(f"argument {name} of the kernel has {span * tensor.element_size():,} bytes; too many")
        flat = tensor.detach().as_strided((span,), (1,), int(tensor.storage_offset())).clone()
        raw = flat.view(torch.uint8).numpy().tobytes() if span else b""
        form = (_short(tensor.dtype), tuple(tensor.shape), tuple(tensor.stride()))
        return cls(name, "value", *form, 0, base64.b64encode(raw).decode())

    def tensor(self, where: str, device: torch.device) -> Tensor:
        """The tensor that `kept` recorded, on `device`. Raises InputError, with `where`, if the bytes do not fit."""
        dtype = getattr(torch, self.dtype, None)
        try:
            raw = base64.b64decode(self.data, validate=True)
        except ValueError:
            raw = b""
        span = _span(self.shape, self.stride)
        if not isinstance(dtype, torch.dtype) or len(raw) != span * dtype.itemsize:
            raise InputError(f"{where}: argument {self.name} has {len(raw)} bytes, not those of its shape; {_RECORD}")
        flat = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        return flat.to(device).as_strided(self.shape, self.stride)

    def view(self, where: str, base: Tensor) -> Tensor:
        """The view of an input that `described` recorded. Raises InputError, with `where`, if it does not fit."""
        room = base.untyped_storage().nbytes() // base.element_size()
        if _short(base.dtype) != self.dtype or self.offset + _span(self.shape, self.stride) > room:
            raise InputError(f"{where}: argument {self.name} is no view of {self.of}; {_RECORD}")
        return base.as_strided(self.shape, self.stride, self.offset)


def _span(shape: Sequence[int], stride: Sequence[int]) -> int:
    return 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def described(name: str, value: object, given: Inputs, results: Mapping[str, Tensor]) -> Argument:
    """An argument of the call as data. `results` are the kernel's own "out" and "lse".

    Raises InputError for an argument that is neither a tensor, nor the stream, nor None.
    """
    if isinstance(value, int) and name == "stream":
        return Argument(name, "stream")
    if not isinstance(value, Tensor):
        raise InputError(f"argument {name} of the kernel is a {type(value).__name__}, which no bundle can hold")
    form = (_short(value.dtype), tuple(value.shape), tuple(value.stride()))
    inputs = {"q": given.q, "k": given.k, "v": given.v, **{f"capture:{n}": t for n, t in given.captures.items()}}
    for of, tensor in results.items():
        if value.shape == tensor.shape and _same_storage(value, tensor):
            return Argument(name, of, *form)
    for of, tensor in inputs.items():
        if value.numel() and value.dtype == tensor.dtype and _same_storage(value, tensor):
            return Argument(name, of, *form, int(value.storage_offset()))
    return Argument.kept(name, value)


def _same_storage(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


@dataclass(frozen=True)
class RecordedCase:
    """One case of a bundle: the case, its inputs' digests, the outcome where it was recorded, and its kernel.

    `text` is "" if torch rendered no kernel, or none that can run elsewhere; `why` then says why.
    """

    case: Case
    inputs: Mapping[str, str]
    outcome: Outcome
    text: str = ""
    arguments: tuple[Argument, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class KernelBundle:
    """A bundle: the package versions of the recording machine, torch's helpers, and the cases by name."""

    versions: Mapping[str, str | None]
    helpers: str
    recorded: Mapping[str, RecordedCase] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Writes the bundle into a new folder. `bundle.json` comes last: without it a folder is no bundle.

        Raises InputError if the folder exists, or cannot be made.
        """
        if folder.exists():
            raise InputError(f"{folder} exists; name a new folder, so that two recordings are never mixed")
        files.make_folder(folder / KERNELS, "name another")
        cases: dict[str, Any] = {}
        for name, r in sorted(self.recorded.items()):
            if r.text:
                files.write(folder / KERNELS / f"{name}.py", r.text)
            cases[name] = {
                "digest": r.case.digest(),
                "inputs": dict(r.inputs),
                "outcome": r.outcome.to_json(),
                "kernel": digest(r.text) if r.text else "",
                "arguments": [a.to_json() for a in r.arguments],
                "why": r.why,
            }
        toml = "\n".join(r.case.to_toml() for _, r in sorted(self.recorded.items()))
        files.write(folder / CASES, toml)
        files.write(folder / HELPERS, self.helpers)
        whole = {"cases": digest(toml), "helpers": digest(self.helpers)}
        manifest = {"format": FORMAT, "versions": dict(self.versions), "sha256": whole, "recorded": cases}
        files.write_json(folder / MANIFEST, manifest)


def read(folder: Path) -> KernelBundle:
    """Reads a bundle, and checks every digest and the syntax tree of every text.

    Raises InputError for a folder that is no bundle, for another format, for a file that is missing or was changed, and
    for a text that is no rendered kernel.
    """
    try:
        manifest = json.loads(_text(folder, MANIFEST))
    except ValueError as error:
        raise InputError(f"{folder / MANIFEST}: not valid JSON: {error}; {_RECORD}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise InputError(f"{folder / MANIFEST}: format {found!r}, and this version reads {FORMAT}; {_RECORD}")
    try:
        helpers = _whole(folder, HELPERS, manifest["sha256"]["helpers"])
        toml = _whole(folder, CASES, manifest["sha256"]["cases"])
        versions, recorded = dict(manifest["versions"]), dict(manifest["recorded"])
        kernel_text.check_helpers(helpers, str(folder / HELPERS))
        cases = {case.name: case for case in catalogue.load_text(toml, str(folder / CASES))}
        if cases.keys() != recorded.keys():
            raise InputError(f"{folder}: {CASES} and {MANIFEST} name other cases; {_RECORD}")
        return KernelBundle(versions, helpers, {n: _recorded(folder, cases[n], recorded[n]) for n in sorted(cases)})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        said = f"{type(error).__name__}: {error}"
        raise InputError(f"{folder / MANIFEST}: a part is missing or has another form ({said}); {_RECORD}") from None


def _recorded(folder: Path, case: Case, data: Mapping[str, Any]) -> RecordedCase:
    where = f"{folder / MANIFEST}: {case.name!r}"
    if case.digest() != data["digest"]:
        raise InputError(f"{where}: the case is another one than was recorded; {_RECORD}")
    text = ""
    if data["kernel"]:
        name = f"{KERNELS}/{case.name}.py"
        text = _whole(folder, name, data["kernel"])
        kernel_text.check_kernel(text, str(folder / name))
    arguments = tuple(Argument.from_json(a, where) for a in data["arguments"])
    outcome = Outcome.from_json(data["outcome"])
    return RecordedCase(case, dict(data["inputs"]), outcome, text, arguments, str(data["why"]))


def _whole(folder: Path, name: str, sha: str) -> str:
    text = _text(folder, name)
    if digest(text) != sha:
        raise InputError(f"{folder / name}: changed since it was recorded; {_RECORD}")
    return text


def _text(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "not text"
        raise InputError(
            f"{folder / name}: cannot be read ({said}); give the folder of a bundle, or {_RECORD}"
        ) from None


def digest(text: str) -> str:
    """SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()
