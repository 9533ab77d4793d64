#!/bin/sh
# PyTorch: a BlockMask that is adjusted to fewer keys keeps an entry for a block that does not exist any more. A causal mask
# of 512 keys has its diagonal block 3 in the last row. Adjusted to 257 keys there are 3 blocks, 0 to 2, and the last row
# still counts one partial block and lists number 3.
# Expected: no partial block in that row. torch 2.14.1 gives this.
# Cause: `_adjust` counts the entries of the index row, also those after the listed ones, whose value is below the number
# of listed blocks.
# Exit code: 0 if the package behaves like this, 1 if it does not, 2 if the script cannot run. See README.md.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
{
  "${PYTHON:-python3}" -m venv "$folder/venv"
  "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check 'torch==2.13.0' 'numpy==2.3.5'
} >&2 || exit 2

cat > "$folder/shown.py" <<'END_OF_PROGRAM'
import torch
from torch.nn.attention.flex_attention import create_block_mask

mask = create_block_mask(lambda b, h, q, k: q >= k, 1, 1, 512, 512, device="cpu", BLOCK_SIZE=128)
adjusted = mask._adjust(512, 257)
print("torch", torch.__version__.partition("+")[0])
print("key blocks          ", -(-257 // 128))
print("partial blocks a row", adjusted.kv_num_blocks[0, 0].tolist())
print("first of the last   ", adjusted.kv_indices[0, 0, 3, 0].item())
END_OF_PROGRAM
seen=$("$folder/venv/bin/python" "$folder/shown.py")
printf '%s\n' "$seen"

expected="torch 2.13.0
key blocks           3
partial blocks a row [1, 1, 1, 1]
first of the last    3"
if [ "$seen" = "$expected" ]; then
  echo "the adjusted mask lists a block that does not exist"
else
  printf 'it was otherwise:\n%s\n' "$expected"
  exit 1
fi
