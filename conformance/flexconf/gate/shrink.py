"""The small form of a bundle: small enough to be kept in a repository, and with the same verdict."""

from __future__ import annotations

import shutil
from pathlib import Path

from flexconf.errors import InputError
from flexconf.gate import files, reading, recording
from flexconf.machine.files import write


def shrink(bundle: Path, out: Path) -> dict[str, int]:
    """Write a small form of `bundle` to the new folder `out`. Returns {"before": bytes, "after": bytes}.

    The plan, all attempts and all evidence of failures stay. The rows of outputs are left out, so the size of a drift
    can no longer be measured. The texts of kernels that no evidence names, and the workers' logs, are left out too. The
    seal names the digest of the full bundle. Raises InputError if the bundle has problems or is a small form already,
    or if `out` exists or cannot be made.
    """
    found = reading.read(bundle)
    if found.problems:
        raise InputError(f"{bundle} is not to be relied on: {found.problems[0]}")
    if files.read_json(bundle / files.SEAL).get("shrunk"):
        raise InputError(f"{bundle} is a small form already")
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made: {error.strerror}; name a new folder") from None
    for name in (files.PLAN, files.RESULTS):
        shutil.copyfile(bundle / name, out / name)
    shutil.copytree(bundle / files.EVIDENCE, out / files.EVIDENCE, dirs_exist_ok=True)
    named = {recording.facts(path).get("kernel") for path in (out / files.EVIDENCE).iterdir()}
    texts = files.read_json(bundle / files.KERNELS)
    write(out / files.KERNELS, files.canonical({d: text for d, text in texts.items() if d in named}))
    files.seal(out, shrunk=found.side.digest)
    return {"before": _size(bundle), "after": _size(out)}


def _size(root: Path) -> int:
    return sum(path.stat().st_size for path in files.present(root).values())
