#!/bin/sh
# PyTorch 2.11: torch.clamp ignores its bound if this bound is the number NaN and there is no other bound.
# Expected: NaN, as from torch.clamp_min, from torch.clamp_max, and from torch.clamp with two bounds.
# Exit code: 0 if the package behaves like this, 1 if it does not, 2 if the script cannot run. See README.md.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
{
  "${PYTHON:-python3}" -m venv "$folder/venv"
  "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'torch==2.11.0' 'numpy==2.3.5'
} >&2 || exit 2

cat > "$folder/shown.py" <<'END'
import math

import torch

print("torch", torch.__version__.partition("+")[0])
floats, nan = torch.arange(3.0), math.nan
print("clamp, min      ", torch.clamp(floats, min=nan).tolist())
print("clamp, max      ", torch.clamp(floats, max=nan).tolist())
print("clamp, both     ", torch.clamp(floats, 0.0, nan).tolist())
print("clamp_min       ", torch.clamp_min(floats, nan).tolist())
print("clamp_max       ", torch.clamp_max(floats, nan).tolist())
END
seen=$("$folder/venv/bin/python" "$folder/shown.py")
printf '%s\n' "$seen"

expected="torch 2.11.0
clamp, min       [0.0, 1.0, 2.0]
clamp, max       [0.0, 1.0, 2.0]
clamp, both      [nan, nan, nan]
clamp_min        [nan, nan, nan]
clamp_max        [nan, nan, nan]"
if [ "$seen" = "$expected" ]; then
  echo "clamp takes no notice of a NaN that is alone; torch 2.13.0 does"
else
  printf 'it was otherwise:\n%s\n' "$expected"
  exit 1
fi
