"""The environment that a result was obtained in: package versions, machine, GPU, git checkout."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "flexflash-conformance",
    "torch",
    "nvidia-cutlass-dsl",
    "flash-attn-4",
    "quack-kernels",
    "triton",
    "numpy",
    "sympy",
)


@dataclass(frozen=True)
class Gpu:
    """One GPU, as the driver names it."""

    name: str
    driver: str
    compute_capability: str


@dataclass(frozen=True)
class Environment:
    """Facts about this machine and installation.

    `packages` maps a package name to its version, or to None if it is not installed. `cuda` is the CUDA version that
    torch is built with, or None.
    """

    python: str
    platform: str
    cpu: str
    cpus: int
    packages: dict[str, str | None]
    gpus: tuple[Gpu, ...]
    cuda: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def read() -> Environment:
    """The environment of this process. Reading it imports neither torch nor any CUDA package."""
    return Environment(
        python=".".join(map(str, sys.version_info[:3])),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=_cpu_model(),
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        packages={name: _version(name) for name in PACKAGES},
        gpus=_gpus(),
        cuda=_cuda(),
    )


@dataclass(frozen=True)
class Checkout:
    """The git checkout that contains this package.

    `changes` is the SHA-256 of `git diff` of the tracked files against HEAD, or "" if they have no changes.
    """

    commit: str
    changes: str

    def to_json(self) -> dict[str, str]:
        """Plain JSON values."""
        return asdict(self)


def checkout() -> Checkout | None:
    """The checkout that this package runs from. Returns None outside a checkout, or if git is missing or fails."""
    root = Path(__file__).resolve().parents[3]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None

    def ask(*arguments: str) -> bytes:
        return subprocess.run([git, "-C", str(root), *arguments], capture_output=True, timeout=60, check=True).stdout

    try:
        commit = ask("rev-parse", "HEAD").decode().strip()
        changes = ask("diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv")
    except (OSError, subprocess.SubprocessError):
        return None
    return Checkout(commit, hashlib.sha256(changes).hexdigest() if changes else "")


def _cuda() -> str | None:
    """The CUDA version in torch/version.py, read as text because importing torch takes seconds.

    Returns None if the file names none.
    """
    try:
        found = importlib.util.find_spec("torch")
        text = (Path(found.origin).parent / "version.py").read_text(encoding="utf-8") if found and found.origin else ""
    except (OSError, ValueError, UnicodeDecodeError, ImportError):
        return None
    said = re.search(r"^cuda\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return said[1] if said else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _gpus() -> tuple[Gpu, ...]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        ran = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[field.strip() for field in line.split(",")] for line in ran.stdout.splitlines()]
    return tuple(Gpu(*row) for row in rows if len(row) == 3)
