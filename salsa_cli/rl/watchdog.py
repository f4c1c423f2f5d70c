"""Who watches a PPO run: its warnings go to the listener, and may stop it (`--stop-on`)."""

from pathlib import Path

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.errors import SalsaError
from salsa_cli.records import read_rows
from salsa_cli.rl.metrics import UpdateMetrics
from salsa_cli.rl.monitors import FOREWARNING, Alarm, Watch, stopping_gain
from salsa_cli.runs.events import Report, Said, Warned


class Watchdog:
    """Names each warning once in the life of a run, over every resumption.

    Args:
        metrics_file: what a resumed run has already measured; may be missing.
    """

    def __init__(self, metrics_file: Path, config: PPOConfig, report: Report) -> None:
        self._config = config
        self._report = report
        self._watch = Watch(named=[FOREWARNING])
        self._stop: str | None = None
        for row in read_rows(metrics_file) if metrics_file.exists() else ():
            self._watch.add(UpdateMetrics.of(row))

    @property
    def stops(self) -> bool:
        """Whether a warning that `--stop-on` names has come up, and there is something to stop."""
        return self._stop is not None

    def forewarn(self, kl: float, reference_end: float | None, spread: float) -> None:
        """Say before the first step whether the penalty alone will shorten the answers.

        Args:
            kl, reference_end, spread: as in `stopping_gain`, of the start's answers.

        Raises:
            SalsaError: it will, and `--stop-on` names that.
        """
        if reference_end is None:
            return
        found = stopping_gain(kl, reference_end, self._config.kl_coef, spread)
        if found is None:
            return
        alarm = Alarm(FOREWARNING, 1, found)
        if alarm.name in self._config.stop_on:
            raise SalsaError(f"stopped before anything was learned, by --stop-on {alarm}")
        self._report(Warned(str(alarm)))

    def see(self, metrics: UpdateMetrics) -> None:
        """Take in an update and name the warnings that it brings up."""
        alarms = self._watch.add(metrics)
        for alarm in alarms:
            self._report(Warned(str(alarm)))
        fatal = [alarm for alarm in alarms if alarm.name in self._config.stop_on]
        if fatal and metrics.update < self._config.updates:
            self._stop = f"stopped after update {metrics.update}, by --stop-on {fatal[0]}"

    def hear(self, prompt: str, answer: str) -> None:
        """Pass on a sample of what the policy says."""
        self._report(Said(prompt, answer))

    def obey(self) -> None:
        """End the run if it is to stop.

        Raises:
            SalsaError: names the warning.
        """
        if self._stop is not None:
            raise SalsaError(self._stop)
