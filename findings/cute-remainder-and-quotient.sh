#!/bin/sh
# CuTe DSL: for vectors of integers, // floors as in Python, but % is C's remainder and has the sign of the dividend.
# Expected: (x // 5) * 5 + x % 5 is x, as for every pair of // and % in Python.
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
def divided(source: cute.Tensor, target: cute.Tensor):
    for i in cutlass.range(8):
        cell = cute.make_rmem_tensor(1, cutlass.Int32)
        cell[0] = source[i]
        value = cell.load()
        target[0, i] = (value // 5)[0]
        target[1, i] = (value % 5)[0]


numbers = np.arange(-4, 4, dtype=np.int32)
seen = np.zeros((2, 8), dtype=np.int32)
divided(from_dlpack(numbers), from_dlpack(seen))
print("x                 ", *numbers)
print("x // 5            ", *seen[0])
print("x % 5             ", *seen[1])
print("(x // 5)*5 + x % 5", *(seen[0] * 5 + seen[1]))
END
seen=$("$folder/venv/bin/python" "$folder/shown.py")
printf '%s\n' "$seen"

expected="nvidia-cutlass-dsl 4.8.1
x                  -4 -3 -2 -1 0 1 2 3
x // 5             -1 -1 -1 -1 0 0 0 0
x % 5              -4 -3 -2 -1 0 1 2 3
(x // 5)*5 + x % 5 -9 -8 -7 -6 0 1 2 3"
if [ "$seen" = "$expected" ]; then
  echo "quotient and remainder of a negative number do not belong together"
else
  printf 'it was otherwise:\n%s\n' "$expected"
  exit 1
fi
