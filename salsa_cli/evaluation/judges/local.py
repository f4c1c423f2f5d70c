"""A judge that is a language model on this machine."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from salsa_cli.data import Message, stable_seed
from salsa_cli.devices.runtime import Runtime
from salsa_cli.evaluation.judges.writing import Completion, JudgeSampling, Request
from salsa_cli.generation import rollouts
from salsa_cli.models import loading, shapes
from salsa_cli.models.backbones import Placement
from salsa_cli.models.loading import LanguageModel
from salsa_cli.models.tokenization import prompt_ids
from salsa_cli.runs.events import Report, Working, silent
from salsa_cli.weights import folders


class LocalWriter:
    """A causal language model; loaded on first use."""

    def __init__(
        self,
        name: str,
        folder: Path,
        batch_size: int,
        runtime: Runtime,
        report: Report = silent,
    ) -> None:
        self.name = name
        # The digest of the weights; computed once, as it reads them all.
        self.identity = str(folders.describe(folder)["weights_xxh3"])
        self._folder = folder
        self._batch_size = batch_size
        self._runtime = runtime
        self._report = report
        self._model: LanguageModel | None = None

    def write(self, requests: Sequence[Request], sampling: JudgeSampling) -> Iterator[Completion]:
        """One `Completion` per request, the longest prompt first."""
        if not requests:
            return
        if self._model is None:
            self._report(Working(f"loading {self._folder}"))
            self._model = loading.load_language_model(
                self._folder, Placement(self._runtime.frozen_dtype, self._runtime.device)
            )
        model = self._model
        ids = {r: prompt_ids(model.tokenizer, _messages(r)) for r in requests}
        room = shapes.context_length(self._folder)
        fitting = []
        for request in sorted(requests, key=lambda r: len(ids[r]), reverse=True):
            if room is not None and len(ids[request]) + sampling.max_tokens > room:
                # The prompt's own length is left out, so that equal failures are counted together.
                failure = (
                    f"too long: with --judge-tokens {sampling.max_tokens} it exceeds the context "
                    f"of {room} tokens"
                )
                yield Completion(request, failure=failure)
            else:
                fitting.append(request)
        for first in range(0, len(fitting), self._batch_size):
            batch = fitting[first : first + self._batch_size]
            sampled = rollouts.sample(
                model,
                [ids[request] for request in batch],
                [stable_seed(sampling.seed, "judge", r.key, r.attempt) for r in batch],
                length=sampling.max_tokens,
                temperature=sampling.temperature or 0.0,
                runtime=self._runtime,
                report=self._report,
            )
            for request, answer in zip(batch, rollouts.texts(model, sampled), strict=True):
                yield Completion(request, text=answer.text, cut=not answer.finished)


def _messages(request: Request) -> tuple[Message, ...]:
    user = Message("user", request.text)
    return (user,) if request.system is None else (Message("system", request.system), user)
