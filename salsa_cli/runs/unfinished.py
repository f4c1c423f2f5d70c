"""The folder in which a command works, with a note of why it stopped if it does."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from salsa_cli import pages
from salsa_cli.config.base import Config
from salsa_cli.config.command_line import resume_line
from salsa_cli.errors import Halted
from salsa_cli.records import write_text
from salsa_cli.runs import provenance, run_folder, stops
from salsa_cli.runs.events import Note, Report
from salsa_cli.runs.run_folder import Kept, saved_steps

PAGE = "report.html"

WritePage = Callable[[Path], None]
"""Writes the report of an unfinished run into its folder."""


@contextmanager
def working_folder(
    command: str,
    config: Config,
    report: Report,
    *,
    resume: bool,
    kept: Kept = saved_steps,
    write_page: WritePage | None = None,
) -> Iterator[Path]:
    """As `run_folder.resumable`; a run that stops leaves its reason in `stops.FILE` and its report.

    Args:
        write_page: without it, the report has nothing but the reason and the settings.
    """
    with run_folder.resumable(
        config.output, force=config.force, resume=resume, kept=kept
    ) as folder:
        if (before := stops.read_killed(folder)) is not None:
            report(Note(f"continuing a run that ended early, {before.headline}"))
        if write_page is None:  # a result of this command may have no report
            (folder / PAGE).unlink(missing_ok=True)
        stops.begin(folder, resume_line(command, config, {}))
        try:
            yield folder
        except BaseException as error:
            if (saved := kept(folder)) is not None:
                changes = error.resume_with if isinstance(error, Halted) else {}
                line = resume_line(command, config, changes)
                stops.mark(folder, error, saved, line, _elsewhere(config, changes))
                with suppress(Exception):  # what has stopped the run matters more
                    (write_page or _page_writer(command, config))(folder)
            raise
        stops.clear(folder)


def _elsewhere(config: Config, changes: Iterable[str]) -> str:
    """Where settings that have to change were made, if not on the command line."""
    places = [config.origins.get(name, "") for name in changes]
    named = [place for place in places if place and not place.startswith("-")]
    return f"Change {' and '.join(named)} first." if named else ""


def _page_writer(command: str, config: Config) -> WritePage:
    """Writes a report with how far the run is known: why it stopped, and how it was made."""

    def write(folder: Path) -> None:
        page = pages.Page(f"salsa {command}: {config.output.name}", ())
        whole = provenance.completed(page, command, config, folder, provenance.RECORD)
        write_text(folder / PAGE, pages.render(whole))

    return write
