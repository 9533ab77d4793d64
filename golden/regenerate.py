"""Runs `flexconf golden regenerate [--check]` on this folder, from a checkout that need not be installed."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "impl"), str(ROOT / "conformance")]

from flexconf.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main(["golden", "regenerate", "--folder", str(ROOT / "golden"), *sys.argv[1:]])
