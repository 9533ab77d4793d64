#!/bin/sh
# CuTe DSL: cute.math.expm1 and cute.math.log1p compute exp(x) - 1 and log(1 + x). Near 0 no digit is right.
# Expected: about x. The two functions exist for arguments near 0.
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
def both(source: cute.Tensor, target: cute.Tensor):
    for i in cutlass.range(3):
        cell = cute.make_rmem_tensor(1, cutlass.Float32)
        cell[0] = source[i]
        value = cell.load()
        target[0, i] = cute.math.expm1(value)[0]
        target[1, i] = cute.math.log1p(value)[0]


numbers = np.array([1e-5, 1e-7, 1e-9], dtype=np.float32)
seen = np.zeros((2, 3), dtype=np.float32)
both(from_dlpack(numbers), from_dlpack(seen))
exact = numbers.astype(np.float64)
for name, got, right in zip(("expm1", "log1p"), seen, (np.expm1(exact), np.log1p(exact)), strict=True):
    for x, y, z in zip(exact, got, right, strict=True):
        print(f"{name}({x:.0e}) is {y:.3e}, right {z:.3e}")
END
seen=$("$folder/venv/bin/python" "$folder/shown.py")
printf '%s\n' "$seen"

expected="nvidia-cutlass-dsl 4.8.1
expm1(1e-05) is 1.001e-05, right 1.000e-05
expm1(1e-07) is 1.192e-07, right 1.000e-07
expm1(1e-09) is 0.000e+00, right 1.000e-09
log1p(1e-05) is 1.001e-05, right 1.000e-05
log1p(1e-07) is 1.192e-07, right 1.000e-07
log1p(1e-09) is 0.000e+00, right 1.000e-09"
if [ "$seen" = "$expected" ]; then
  echo "expm1 and log1p lose what they are for"
else
  printf 'it was otherwise:\n%s\n' "$expected"
  exit 1
fi
