#!/bin/sh
# PyTorch: under vmap, a positive int32 scalar divided by the number 2**31 is negative. flex_attention calls its mods
# under vmap. Expected: the same positive quotient as without vmap.
# Exit code: 0 if the package behaves like this, 1 if it does not, 2 if the script cannot run. See README.md.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
{
  "${PYTHON:-python3}" -m venv "$folder/venv"
  "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'torch==2.13.0' 'numpy==2.3.5'
} >&2 || exit 2

cat > "$folder/shown.py" <<'END'
import torch

print("torch", torch.__version__.partition("+")[0])


def quotient(q):
    return q / 2**31


numbers = torch.arange(1, 3, dtype=torch.int32)
print("without vmap", [f"{quotient(q).item():.2e}" for q in numbers])
print("under vmap  ", [f"{x:.2e}" for x in torch.vmap(quotient)(numbers).tolist()])
END
seen=$("$folder/venv/bin/python" "$folder/shown.py")
printf '%s\n' "$seen"

expected="torch 2.13.0
without vmap ['4.66e-10', '9.31e-10']
under vmap   ['-4.66e-10', '-9.31e-10']"
if [ "$seen" = "$expected" ]; then
  echo "the number is cast to int32 first, where it wraps around"
else
  printf 'it was otherwise:\n%s\n' "$expected"
  exit 1
fi
