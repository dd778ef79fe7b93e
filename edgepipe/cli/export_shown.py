"""An export with its progress, and what can be done with what was written."""

from __future__ import annotations

from pathlib import Path

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from edgepipe.cli.show import errors, print_json
from edgepipe.coordinator.exporting import Exported, Kind, export


def show_export(
    run: Path, output: Path, *, home: Path, step: int | None, merge: bool, json: bool
) -> None:
    """Export, show how far it is, and tell what was written. Raises as `export` does."""
    console = errors()
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        console=console,
        transient=True,
        disable=json or not console.is_terminal,
    )
    tasks: dict[str, TaskID] = {}

    def progress(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done, total=total)

    with bars:
        exported = export(run, output, home=home, step=step, merge=merge, progress=progress)
    if exported.is_changed:
        console.print(
            f"The config of {exported.model} is not what it was when this was trained: "
            "check what was written.",
            style="yellow",
            markup=False,
        )
    if json:
        print_json(_document(exported))
    else:
        console.print(_sentence(exported), markup=False)


def _document(exported: Exported) -> dict[str, object]:
    return {
        "kind": exported.kind,
        "output": str(exported.output),
        "step": exported.step,
        "model": exported.model,
        "files": sorted(path.name for path in exported.output.iterdir()),
    }


def _sentence(exported: Exported) -> str:
    match exported.kind:
        case Kind.ADAPTER:
            use = f"edgepipe run {exported.model} --adapter {exported.output} --prompt …"
            return f"The adapter of step {exported.step} is in {exported.output}. Use it: {use}"
        case Kind.MODEL:
            use = f"edgepipe run {exported.output} --prompt …"
            return f"The model of step {exported.step} is in {exported.output}. Use it: {use}"
