#!/bin/sh
# CuTe DSL before 4.8: the negative of an Int8 is an Int32, and the negative of 0.0 is 0.0.
# Expected: the type of the operand, as of every other operation on it, and -0.0, as in IEEE 754. So it is since 4.8.0.
# Exit code 0 while it is so, 1 when it is not, 2 when it cannot be run. See README.md.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
{
  "${PYTHON:-python3}" -m venv "$folder/venv"
  "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'nvidia-cutlass-dsl==4.7.1' 'nvidia-cutlass-dsl-libs-base==4.7.1' 'numpy==2.3.5'
} >&2 || exit 2

cat > "$folder/shown.py" <<'END'
from importlib.metadata import version

import cutlass.cute as cute
import numpy as np
from cutlass.cute.runtime import from_dlpack

print("nvidia-cutlass-dsl", version("nvidia-cutlass-dsl"))


@cute.jit
def negate(source: cute.Tensor, target: cute.Tensor):
    x = source.load()
    print("x is", x.dtype, "and x + x is", (x + x).dtype, "but -x is", (-x).dtype)
    target.store((-x).to(target.element_type))


for kind in (np.int8, np.float32):
    target = np.ones(2, dtype=np.float32)
    negate(from_dlpack(np.array([0, 3], dtype=kind)), from_dlpack(target))
    print("the negatives of 0 and 3 are", *target)
END
seen=$("$folder/venv/bin/python" "$folder/shown.py")
printf '%s\n' "$seen"

expected="nvidia-cutlass-dsl 4.7.1
x is Int8 and x + x is Int8 but -x is Int32
the negatives of 0 and 3 are 0.0 -3.0
x is Float32 and x + x is Float32 but -x is Float32
the negatives of 0 and 3 are 0.0 -3.0"
if [ "$seen" = "$expected" ]; then
  echo "the negative of a short integer is not of its type, and the negative of 0.0 has no sign"
else
  printf 'it was otherwise:\n%s\n' "$expected"
  exit 1
fi
