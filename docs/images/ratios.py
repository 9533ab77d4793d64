"""Draws ratios.png: `flexconf run --results results.jsonl`, then `python docs/images/ratios.py results.jsonl`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main(results: Path) -> None:
    """One point a case: its largest error as a share of the certified bound, against the elements compared."""
    points = []
    for line in results.read_text().splitlines():
        comparison = json.loads(line)["comparison"]
        if comparison and comparison["elements"]:
            points.append((comparison["elements"], float(comparison["max_ratio"])))
    elements, ratios = zip(*points, strict=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=(3, 1), sharey=True)
    left.scatter(elements, ratios, s=14, alpha=0.6, color="#1f5fa8", edgecolors="none")
    left.set(xscale="log", xlabel="elements compared", ylabel="largest error / certified bound", ylim=(0, 1.08))
    left.set_title(f"{len(points)} cases, {sum(elements):,} elements, reference on a CPU", loc="left", fontsize=10)
    right.hist(ratios, bins=24, range=(0, 1), orientation="horizontal", color="#1f5fa8", alpha=0.8)
    right.set(xlabel="cases")
    for axis in (left, right):
        axis.axhline(1.0, color="#b3261e", linewidth=1.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    left.annotate("above this line a case fails", (min(elements), 1.01), color="#b3261e", fontsize=9, va="bottom")
    figure.tight_layout()
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=130)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
