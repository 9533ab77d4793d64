"""`flexconf bench gpu | compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flexconf.cli import console
from flexconf.cli.options import Json

if TYPE_CHECKING:
    from flexconf.bench.record import BenchRecording, Measurement
    from flexconf.bench.workloads import Workload

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Speed: the lowering's kernels beside PyTorch's, flash-attn-4's own and cuDNN's.",
)


@app.command()
def gpu(
    workload: Annotated[list[str] | None, typer.Option(help="Measure only this workload. Repeatable.")] = None,
    provider: Annotated[list[str] | None, typer.Option(help="Measure only this provider. Repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write everything to this new JSON file.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Short: lengths of at most 2048, two rounds.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="Turns that every provider gets; 10 by default.")] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Fresh processes that measure each workload, so that none speaks for all.")
    ] = 1,
    graphs: Annotated[bool, typer.Option(help="Time runs as CUDA graphs too.")] = True,
    as_json: Json = False,
) -> None:
    """Time attention with and without mods on this GPU, and check every provider's result in the same run.

    Exit code 0 if every result is right, 1 if a result is wrong, a provider failed or nothing was measured, 2 for a bad
    input. A provider that does not support a workload is no failure.

    Examples: `flexconf bench gpu`, `flexconf bench gpu --workload softcap --provider reference --provider torch-flash`
    """
    from flexconf.bench import providers, workloads
    from flexconf.bench import run as runner
    from flexconf.bench.record import File, Settings
    from flexconf.errors import InputError
    from flexconf.machine import devices

    chosen = providers.select(provider or [])
    settings = Settings(
        rounds=rounds or (2 if quick else Settings.rounds), graphs=graphs, quick=quick, processes=processes
    )
    tasks = []
    for w in workloads.select(workload or []):
        wanted = tuple(providers.of(w.only, chosen))
        if wanted:
            tasks.append(runner.Task(w.quick() if quick else w, wanted, settings))
    if not tasks:
        raise InputError(f"no workload of these is measured with {', '.join(chosen)}; leave out one of the options")
    devices.require("flexconf bench gpu")
    providers.require(sorted({name for task in tasks for name in task.providers}, key=chosen.index))
    file = File(out, runner.start(tasks, settings)) if out is not None else None
    note = Console(stderr=True)

    def show(w: Workload, measurements: Sequence[Measurement]) -> None:
        if not as_json:
            from flexconf.cli import bench_tables as tables

            console.screen().print(tables.workload(w, measurements))

    def save(recording: BenchRecording) -> None:
        if file is not None:
            file.write(recording)

    recording = runner.run(
        tasks,
        settings,
        on_workload=show,
        on_progress=save,
        on_stage=lambda stage: note.print(f"measuring {stage} ...", highlight=False) if note.is_terminal else None,
    )
    if as_json:
        print(json.dumps(recording.to_json(), indent=2, allow_nan=False))
    else:
        from flexconf.cli import bench_tables as tables

        console.screen().print(tables.summary(recording))
    raise typer.Exit(0 if recording.ok else 1)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="A file of `flexconf bench gpu --out`.")],
    after: Annotated[Path, typer.Argument(help="Another.")],
    as_json: Json = False,
) -> None:
    """Compare two benches: the ratios of their times, and whether each is more than noise.

    Exit code 0, whatever changed; 2 if the two cannot be compared.

    Example: `flexconf bench compare before.json after.json`
    """
    from flexconf.bench import record

    old, new = record.read(before), record.read(after)
    found = record.compare(old, new)
    if as_json:
        rows = [
            {
                "workload": c.workload,
                "provider": c.provider,
                "before": c.before.median if c.before else None,
                "after": c.after.median if c.after else None,
                "ratio": c.ratio,
                "verdict": c.verdict,
            }
            for c in found
        ]
        print(json.dumps(rows, indent=2, allow_nan=False))
        return
    from flexconf.cli import bench_tables as tables

    console.screen().print(tables.changes(found, old, new))
