"""The live view of a terminal, and tables, drawn by rich."""

from collections.abc import Iterator

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable
from rich.text import Text

from salsa_cli.formatting import amount, figure, plain
from salsa_cli.runs.events import (
    Advanced,
    Event,
    Measured,
    Note,
    Said,
    Table,
    Warned,
    Working,
)

_WIDE = 110
"""Columns from which on the bars are long."""

_SHORTEST = 20
"""Characters that a name keeps however narrow the terminal is."""

_STEP = 11
"""Characters of a step beside its name and its amounts: a spinner, the time, blanks."""

_AMOUNTS = 44
"""Characters of the amounts of a step, such as `1,024/2,048  1,234/s  token 4,096/8,192`."""


class LiveView:
    """Progress bars for the stages; below them what is being done, figures, a sample answer."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True, emoji=False)
        self._console = console
        wide = console.width >= _WIDE
        # What is left for names beside the bar, the amounts, the speed and the times.
        self._room = max(_SHORTEST, console.width - (73 if wide else 53))
        self._bars = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28 if wide else 8),
            _Amount(),
            _Time(compact=True, elapsed_when_finished=True),
            console=console,
        )
        self._steps = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            _Counted(),
            TimeElapsedColumn(),
            console=console,
        )
        self._step: Working | None = None
        self._tasks: dict[str, TaskID] = {}
        self._figures: dict[str, float] = {}
        self._figures_of = ""
        self._said: Said | None = None
        self._live: Live | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case Note(text):
                self._console.print(escape(text), highlight=False)
            case Warned(text):
                self._console.print(f"[yellow]warning:[/] {escape(text)}", highlight=False)
            case Advanced():
                self._advance(event)
            case Working():
                self._work(event)
            case Said():
                self._said = event
            case Measured():
                pass

    def close(self) -> None:
        """Stop updating; the bars, figures and the sample stay on the screen."""
        if self._live is not None:
            self._rest()
            self._draw()
            self._live.stop()
            self._live = None

    def _work(self, event: Working) -> None:
        before = self._step
        if before is None or before.step != event.step or event.done < before.done:
            self._rest()
            self._steps.add_task(
                _short(event.step, self._room_beside(event)),
                total=event.total or None,
                unit=event.unit,
                detail=event.detail,
            )
        for task in self._steps.task_ids:
            self._steps.update(task, completed=event.done, detail=event.detail)
        self._step = event
        self._draw()

    def _room_beside(self, event: Working) -> int:
        """What is left for the name of a step beside the spinner, the amounts and the time."""
        amounts = _AMOUNTS if event.total else 0
        return max(_SHORTEST, self._console.width - _STEP - amounts)

    def _rest(self) -> None:
        """Nothing is being done."""
        for task in self._steps.task_ids:
            self._steps.remove_task(task)
        self._step = None

    def _draw(self) -> None:
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=8)
            self._live.start()
        parts = [self._bars] if self._bars.task_ids else []
        steps = [self._steps] if self._step is not None else []
        self._live.update(Group(*parts, *steps, *self._below()))

    def _advance(self, event: Advanced) -> None:
        self._rest()
        if event.stage not in self._tasks:
            self._tasks[event.stage] = self._bars.add_task(
                _short(event.stage, self._room), total=event.total, unit=event.unit
            )
        task = self._tasks[event.stage]
        self._bars.update(task, completed=event.done, total=event.total)
        if event.figures and event.stage != self._figures_of:
            self._figures, self._figures_of = {}, event.stage
        # Figures that are not measured every time keep their last value.
        self._figures |= event.figures
        self._draw()
        if event.done >= event.total:
            del self._tasks[event.stage]

    def _below(self) -> Iterator[RenderableType]:
        cells = [
            Text.assemble((f"{name} ", "dim"), figure(value))
            for name, value in self._figures.items()
        ]
        if cells:
            yield Columns(cells, padding=(0, 3, 0, 0), equal=True)
        if self._said is not None:
            room = self._console.width - len("prompt  ")
            yield Text(f"prompt  {plain(self._said.prompt, room)}", style="dim")
            yield Text.assemble(("answer  ", "dim"), plain(self._said.answer, 3 * room))


def _short(name: str, length: int) -> str:
    """A name that is cut in the middle if it is too long."""
    if len(name) <= length:
        return name
    end = length // 2
    return f"{name[: length - end - 1]}…{name[-end:]}"


class _Amount(ProgressColumn):
    """`12/40 updates 1.3 updates/s`, with bytes written as sizes."""

    def render(self, task: Task) -> Text:
        unit = str(task.fields["unit"])
        if task.total is None:
            return Text()
        text = f"{amount(task.completed, unit)}/{amount(task.total, unit)}"
        speed = task.finished_speed or task.speed
        if unit not in ("", "B"):
            text += f" {unit}"
        if speed:
            text += f"  {amount(speed, unit) if unit == 'B' else figure(speed)}/s"
        return Text(text)


class _Counted(_Amount):
    """The amounts of a step, and its detail."""

    def render(self, task: Task) -> Text:
        parts = [str(super().render(task)), str(task.fields["detail"])]
        return Text("  ".join(part for part in parts if part), style="dim")


class _Time(TimeRemainingColumn):
    """`00:12 left`, and what a finished stage took: `00:30`."""

    def render(self, task: Task) -> Text:
        shown = super().render(task)
        return shown if task.finished or task.time_remaining is None else shown.append(" left")


def print_table(table: Table) -> None:
    """A table on stdout.

    No name is truncated. On a terminal that is too narrow, the columns come closer together, and
    names take several lines; a file or a pipe gets one line per row.
    """
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    drawn = _rich_table(table, gap=2)
    widest = console.options.update(max_width=10_000)
    needed = Measurement.get(console, widest, drawn).maximum
    if needed > console.width:
        if console.file.isatty():
            drawn = _rich_table(table, gap=1)
        else:
            console.width = needed
    console.print(drawn)


def _rich_table(table: Table, gap: int) -> RichTable:
    drawn = RichTable(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for position, name in enumerate(table.columns):
        is_name = position < table.names
        drawn.add_column(
            name,
            justify="left" if is_name else "right",
            header_style="bold",
            overflow="fold",
            no_wrap=not is_name,
        )
    for row in table.rows:
        drawn.add_row(*(escape(cell) for cell in row))
    return drawn
