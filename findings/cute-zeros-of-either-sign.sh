#!/bin/sh
# CuTe DSL: the constants 0.0 and -0.0 of one kernel become one constant, the one that stands first.
# Expected: two constants. In IEEE 754, copysign and division distinguish them.
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
def positive_first(target: cute.Tensor):
    target[0] = cutlass.Float32(0.0)
    target[1] = cutlass.Float32(-0.0)


@cute.jit
def negative_first(target: cute.Tensor):
    target[1] = cutlass.Float32(-0.0)
    target[0] = cutlass.Float32(0.0)


for kernel in (positive_first, negative_first):
    seen = np.ones(2, dtype=np.float32)
    kernel(from_dlpack(seen))
    print(kernel.__name__, "0.0 is", seen[0], "and -0.0 is", seen[1])
END
seen=$("$folder/venv/bin/python" "$folder/shown.py")
printf '%s\n' "$seen"

expected="nvidia-cutlass-dsl 4.8.1
positive_first 0.0 is 0.0 and -0.0 is 0.0
negative_first 0.0 is -0.0 and -0.0 is -0.0"
if [ "$seen" = "$expected" ]; then
  echo "the first zero of a kernel gives all of them its sign"
else
  printf 'it was otherwise:\n%s\n' "$expected"
  exit 1
fi
