#!/bin/sh
# PyTorch: flex_attention without compilation returns an LSE of -inf for a row of finite scores below about -2.36e38.
# The output of the same row is right. The LSE is divided by ln 2 in between, and float32 cannot hold the quotient.
# Expected: -2.4e38, plus the logarithm of the number of keys.
# Exit code: 0 if the package behaves like this, 1 if it does not, 2 if the script cannot run. See README.md.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
{
  "${PYTHON:-python3}" -m venv "$folder/venv"
  "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'torch==2.13.0' 'numpy==2.3.5'
} >&2 || exit 2

cat > "$folder/shown.py" <<'END'
import warnings

import torch
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

warnings.simplefilter("ignore")
print("torch", torch.__version__.partition("+")[0])
q = torch.zeros(1, 1, 4, 16)
v = torch.ones(1, 1, 4, 16)
for low in (-2.3e38, -2.4e38):
    out, aux = flex_attention(
        q, q, v, score_mod=lambda score, b, h, m, n, low=low: score + low, return_aux=AuxRequest(lse=True)
    )
    print(f"scores of {low:.1e}: output {out[0, 0, 0, 0].item():.1f}, LSE {aux.lse[0, 0, 0].item():.1e}")
END
seen=$("$folder/venv/bin/python" "$folder/shown.py")
printf '%s\n' "$seen"

expected="torch 2.13.0
scores of -2.3e+38: output 1.0, LSE -2.3e+38
scores of -2.4e+38: output 1.0, LSE -inf"
if [ "$seen" = "$expected" ]; then
  echo "the LSE says that nothing was attended to"
else
  printf 'it was otherwise:\n%s\n' "$expected"
  exit 1
fi
