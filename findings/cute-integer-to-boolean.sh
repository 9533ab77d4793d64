#!/bin/sh
# CuTe DSL: a cast of a vector of integers to Boolean keeps the lowest bit, so 2 becomes false.
# Expected: every number except 0 becomes true, as in C, Python and NumPy.
# Exit code: 0 if the package behaves like this, 1 if it does not, 2 if the script cannot run. See README.md.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
{
  "${PYTHON:-python3}" -m venv "$folder/venv"
  "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'nvidia-cutlass-dsl==4.8.1' 'nvidia-cutlass-dsl-libs-base==4.8.1' 'numpy==2.3.5'
} >&2 || exit 2

cat > "$folder/shown.py" <<'END'
from importlib.metadata import version

import cutlass
import cutlass.cute as cute
import numpy as np
from cutlass.cute.runtime import from_dlpack

print("nvidia-cutlass-dsl", version("nvidia-cutlass-dsl"))

@cute.jit
def truths(source: cute.Tensor, target: cute.Tensor):
    for i in cutlass.range(8):
        cell = cute.make_rmem_tensor(1, cutlass.Int32)
        cell[0] = source[i]
        value = cell.load()
        truth = value.to(cutlass.Boolean)
        target[i] = cute.where(truth, cute.full_like(value, 1), cute.full_like(value, 0))[0]


numbers = np.arange(8, dtype=np.int32)
seen = np.zeros(8, dtype=np.int32)
truths(from_dlpack(numbers), from_dlpack(seen))
print("numbers ", *numbers)
print("cast    ", *seen)
print("expected", *(numbers != 0).astype(np.int32))
END
seen=$("$folder/venv/bin/python" "$folder/shown.py")
printf '%s\n' "$seen"

expected="nvidia-cutlass-dsl 4.8.1
numbers  0 1 2 3 4 5 6 7
cast     0 1 0 1 0 1 0 1
expected 0 1 1 1 1 1 1 1"
if [ "$seen" = "$expected" ]; then
  echo "an even number is false"
else
  printf 'it was otherwise:\n%s\n' "$expected"
  exit 1
fi
