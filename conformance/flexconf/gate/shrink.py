"""A bundle without what only its readers want: small enough to be kept in a repository, and with the same verdict."""

from __future__ import annotations

import shutil
from pathlib import Path

from flexconf.errors import InputError
from flexconf.gate import files, reading, recording
from flexconf.machine.files import write


def shrink(bundle: Path, out: Path) -> dict[str, int]:
    """Write a small form of `bundle` to the new folder `out`; {"before": bytes, "after": bytes}.

    Every attempt, the plan and all evidence of failures stay as they are. The kept rows of outputs go, so that the size
    of a drift cannot be measured any more, and with them the texts of kernels that are right and the workers' logs. The
    seal names the digest of the bundle that it was. Raises InputError for a bundle that has problems or is small
    already, and for a folder that is there.
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
