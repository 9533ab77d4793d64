#!/bin/sh
# CuTe DSL: cute.math.atan2(0, 0) is NaN if the compiler knows that both operands are 0. It is 0 if they are in memory.
# Expected: 0 in both cases, as in IEEE 754.
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
def angles(source: cute.Tensor, target: cute.Tensor):
    cell = cute.make_rmem_tensor(1, cutlass.Float32)
    cell[0] = source[0]
    read = cell.load()
    known = cute.zeros_like(read)
    target[0] = cute.math.atan2(read, read)[0]
    target[1] = cute.math.atan2(known, known)[0]


seen = np.zeros(2, dtype=np.float32)
angles(from_dlpack(np.zeros(1, dtype=np.float32)), from_dlpack(seen))
print("atan2(0, 0) of zeros in memory      ", seen[0])
print("atan2(0, 0) of zeros that are known ", seen[1])
END
seen=$("$folder/venv/bin/python" "$folder/shown.py")
printf '%s\n' "$seen"

expected="nvidia-cutlass-dsl 4.8.1
atan2(0, 0) of zeros in memory       0.0
atan2(0, 0) of zeros that are known  nan"
if [ "$seen" = "$expected" ]; then
  echo "what the compiler knows decides the value"
else
  printf 'it was otherwise:\n%s\n' "$expected"
  exit 1
fi
