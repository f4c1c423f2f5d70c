"""Watches a PPO run: reports its warnings, and stops it for those that `--stop-on` names."""

from collections.abc import Collection, Sequence
from pathlib import Path

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.errors import Halted, SalsaError
from salsa_cli.records import read_rows
from salsa_cli.rl.metrics import UpdateMetrics
from salsa_cli.rl.monitors import FOREWARNING, Alarm, AlarmTracker, stopping_gain
from salsa_cli.runs.events import Report, Said, Warned


class Watchdog:
    """Reports each warning once in a run, across every resume.

    Args:
        metrics_file: what a resumed run has already measured; may be missing.
        exact_ratio: whether the first ratio is 1 up to the rounding of float32, so that
            `ratio-error` means something.
    """

    def __init__(
        self, metrics_file: Path, config: PPOConfig, report: Report, *, exact_ratio: bool = True
    ) -> None:
        self._config = config
        self._report = report
        named = [FOREWARNING] if exact_ratio else [FOREWARNING, "ratio-error"]
        self._watch = AlarmTracker(named=named)
        self._fatal: Sequence[Alarm] = ()
        rows = read_rows(metrics_file) if metrics_file.exists() else []
        self._raised = [alarm for row in rows for alarm in self._watch.add(UpdateMetrics.of(row))]

    @property
    def stops(self) -> bool:
        """Whether a warning that `--stop-on` names has been raised before the last update."""
        return bool(self._fatal)

    def check_resume(self) -> None:
        """Refuse to resume a run with the `--stop-on` that has stopped it.

        A warning is raised once in a run, so that it would not stop the run again: a pipeline that
        repeats its command with `--resume` would finish what was stopped for a reason.

        Raises:
            SalsaError: names the warning and what can be done.
        """
        fatal = [
            alarm
            for alarm in self._raised
            if alarm.name in self._config.stop_on and alarm.update < self._config.updates
        ]
        if fatal:
            raised = " and ".join(f"{alarm.name} after update {alarm.update}" for alarm in fatal)
            raise SalsaError(
                f"this run raised {raised}, which --stop-on stops. "
                f"{_continued({alarm.name for alarm in fatal})}"
            )

    def check_start(self, kl: float, reference_end: float, spread: float) -> None:
        """Warn before the first step if the penalty alone will shorten the answers.

        Args:
            kl, reference_end, spread: as in `stopping_gain`, of the start's answers.

        Raises:
            SalsaError: it will, and `--stop-on` names that.
        """
        found = stopping_gain(kl, reference_end, self._config.kl_coef, spread)
        if found is None:
            return
        alarm = Alarm(FOREWARNING, 1, found)
        if alarm.name in self._config.stop_on:
            raise SalsaError(f"stopped before the first update by --stop-on {alarm}")
        self._report(Warned(str(alarm)))

    def observe(self, metrics: UpdateMetrics) -> None:
        """Check an update, and report its new warnings."""
        alarms = self._watch.add(metrics)
        for alarm in alarms:
            self._report(Warned(str(alarm)))
        fatal = [alarm for alarm in alarms if alarm.name in self._config.stop_on]
        if fatal and metrics.update < self._config.updates:
            self._fatal = fatal

    def report_sample(self, prompt: str, answer: str) -> None:
        """Report a sample of the policy's answers."""
        self._report(Said(prompt, answer))

    def raise_if_stopped(self) -> None:
        """Stop the run if a warning that `--stop-on` names has been raised.

        Raises:
            Halted: names the warning.
        """
        if not self._fatal:
            return
        named = {alarm.name for alarm in self._fatal}
        stopped = "\n".join(f"--stop-on {alarm}" for alarm in self._fatal)
        raise Halted(
            f"stopped after update {self._fatal[0].update} by {stopped}. {_continued(named)}",
            {"stop_on": tuple(name for name in self._config.stop_on if name not in named)},
        )


def _continued(named: Collection[str]) -> str:
    """What can be done with a run that warnings have stopped."""
    options = " and ".join(f"--stop-on {name}" for name in sorted(named))
    return (
        "Other settings need a new run: another -o, or --force, which deletes this one. To "
        f"continue this one as it is, leave out {options}"
    )
