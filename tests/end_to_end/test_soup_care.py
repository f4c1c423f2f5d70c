"""A soup that is killed, that finds the disk full, or whose inputs change: nothing half-made."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from salsa_cli import soup
from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError, StorageError, UsageError
from salsa_cli.runs.events import Advanced, Event, Note, Warned, silent
from salsa_cli.soups import journal
from salsa_cli.soups.tensor_source import TensorSource
from tests.support.worlds import World

TENSORS = 24
SIDE = 700  # of a square tensor of float32: 2 MB


@pytest.fixture(scope="module")
def pair(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders of 47 MB: large enough to be killed in the middle. Companions are the world's."""
    folders = []
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp("large") / f"m{seed}"
        shutil.copytree(world.a, folder)
        generator = np.random.default_rng(seed)
        tensors = {
            f"t{number}": generator.standard_normal((SIDE, SIDE), np.float32)
            for number in range(TENSORS)
        }
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        folders.append(folder)
    return folders[0], folders[1]


@pytest.fixture(scope="module")
def undisturbed(
    pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The file of a run that nobody stopped, and what its record says of the weights."""
    output = tmp_path_factory.mktemp("whole") / "ref"
    soup.run(configure(output, *pair), silent)
    return contents(output)


def configure(output: Path, *models: Path, **changes: Any) -> SoupConfig:
    settings = {"alpha": 0.3, "memory": 8 * 10**6, **changes}  # blocks of 150 kB
    return SoupConfig(models=tuple(map(str, models)), output=output, **settings)


def contents(output: Path) -> dict[str, Any]:
    made = json.loads((output / "soup.json").read_text())
    return {
        "weights": (output / "model.safetensors").read_bytes(),
        "names": sorted(path.name for path in output.iterdir()),
        "digests": [one["weights_xxh3"] for one in made["ingredients"]],
        "files": made["files_xxh3"],
    }


def command(output: Path, *models: Path, **changes: Any) -> list[str]:
    more = [f"--{name}={value}" for name, value in changes.items()]
    return [
        *(sys.executable, "-m", "salsa_cli", "soup", *map(str, models), "--alpha=0.3"),
        *("--memory=8MB", "-o", str(output), "--quiet", *more),
    ]


class Stop:
    """A listener that interrupts after some blocks."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, event: Event) -> None:
        if isinstance(event, Advanced) and event.stage == "soup":
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 7, 150, 300])
def test_an_interrupted_soup_is_continued_to_the_same_bytes(
    pair: tuple[Path, Path], undisturbed: dict[str, Any], tmp_path: Path, after: int
) -> None:
    output = tmp_path / "ref"
    with pytest.raises(KeyboardInterrupt, match=r"finished blocks?; continue it with --resume"):
        soup.run(configure(output, *pair), Stop(after))
    assert not output.exists()
    notes: list[Event] = []
    soup.run(configure(output, *pair, resume=True, verify=True), notes.append)
    assert contents(output) == undisturbed
    (told,) = [e.text for e in notes if isinstance(e, Note) and "already finished" in e.text]
    assert after <= int(told.split()[0]) <= after + soup.THREADS
    soup.run(configure(output, *pair, resume=True), silent)  # it is complete: nothing to do


def test_what_reached_the_disk_otherwise_is_made_again(
    pair: tuple[Path, Path], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """As after a power cut: the journal knows of a block that the file does not have."""
    output = tmp_path / "ref"
    with pytest.raises(KeyboardInterrupt):
        soup.run(configure(output, *pair), Stop(200))
    with (tmp_path / "ref.partial" / "model.safetensors").open("r+b") as file:
        file.seek(10**7)
        file.write(b"\xff" * 100)
    with (tmp_path / "ref.partial" / journal.NAME).open("a") as file:
        file.write('{"file": "cut sh')
    notes: list[Event] = []
    soup.run(configure(output, *pair, resume=True), notes.append)
    assert contents(output) == undisturbed
    (told,) = [e.text for e in notes if isinstance(e, Note) and "already finished" in e.text]
    assert 50 < int(told.split()[0]) < 150
    assert any(isinstance(e, Warned) and "are computed again" in e.text for e in notes)


def test_another_soup_is_not_continued(pair: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "ref"
    with pytest.raises(KeyboardInterrupt):
        soup.run(configure(output, *pair), Stop(20))
    for changes, says in (
        ({"alpha": 0.4}, "alpha: 0.3 then, 0.4 now"),
        ({"memory": 10**7}, "bytes of a block (--memory)"),
    ):
        with pytest.raises(
            SalsaError, match="contains the partial result of a different soup"
        ) as caught:
            soup.run(configure(output, *pair, resume=True, **changes), silent)
        assert says in str(caught.value)
    os.utime(pair[1] / "model.safetensors")
    with pytest.raises(SalsaError, match=r"files: .* then, .* now"):
        soup.run(configure(output, *pair, resume=True), silent)
    assert (tmp_path / "ref.partial" / journal.NAME).is_file()
    with pytest.raises(SalsaError, match="or start again with --force"):
        soup.run(configure(output, *pair), silent)
    soup.run(configure(output, *pair, force=True), silent)
    assert output.is_dir() and not (tmp_path / "ref.partial").exists()


def test_inputs_that_change_are_noticed(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = Path(shutil.copytree(pair[1], tmp_path / "changed"))
    gather = TensorSource.gather

    def meddle(self: TensorSource, *rest: Any) -> Any:
        if self.weights.folder == changed:
            os.utime(changed / "model.safetensors", (1, 1))
        return gather(self, *rest)

    monkeypatch.setattr(TensorSource, "gather", meddle)
    with pytest.raises(SalsaError, match=r"model\.safetensors changed while it was being read"):
        soup.run(configure(tmp_path / "ref", pair[0], changed), silent)
    assert list(tmp_path.iterdir()) == [changed]


def test_a_full_disk_keeps_what_a_resumption_needs(
    pair: tuple[Path, Path], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """A quota of 20 MB a file, as the shell's `ulimit -f` sets it."""
    output = tmp_path / "ref"

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does: EFBIG instead of death
        resource.setrlimit(resource.RLIMIT_FSIZE, (20 * 10**6, 20 * 10**6))

    done = subprocess.run(
        command(output, *pair), preexec_fn=limited, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cannot write it: File too large" in done.stderr
    assert not output.exists()
    soup.run(configure(output, *pair, resume=True), silent)
    assert contents(output) == undisturbed


def test_a_disk_that_fills_up_says_how_to_go_on(
    pair: tuple[Path, Path],
    undisturbed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "ref"
    left = [100]
    pwritev = os.pwritev

    def full(descriptor: int, buffers: Any, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, os.strerror(28))
        return pwritev(descriptor, buffers, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", full)
        with pytest.raises(StorageError, match=r"No space left on device\n.*--resume"):
            soup.run(configure(output, *pair), silent)
    soup.run(configure(output, *pair, resume=True), silent)
    assert contents(output) == undisturbed


def kill_and_resume(
    pair: tuple[Path, Path], output: Path, whole: dict[str, Any], generator: random.Random
) -> bool:
    """Kill a soup at a random moment, look, go on; whether it was killed in the middle."""
    process = subprocess.Popen(command(output, *pair))
    draft = output.with_name(output.name + ".partial")
    while process.poll() is None and not draft.exists():
        time.sleep(0.005)
    time.sleep(generator.uniform(0, 0.4))
    process.send_signal(signal.SIGKILL)
    process.wait()
    complete = output.exists()
    if complete:
        assert contents(output) == whole
    subprocess.run([*command(output, *pair), "--resume"], check=True)
    assert contents(output) == whole
    assert not draft.exists()
    return not complete


def test_killed_at_any_moment_nothing_is_half_made(
    pair: tuple[Path, Path], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """SALSA_KILLS sets how many kills; 100 of them take four minutes."""
    generator = random.Random(0)
    kills = int(os.environ.get("SALSA_KILLS", "4"))
    killed = 0
    for number in range(kills):
        killed += kill_and_resume(pair, tmp_path / f"ref{number}", undisturbed, generator)
        shutil.rmtree(tmp_path / f"ref{number}")
    print(f"{killed} of {kills} were killed before their end")
    assert killed


def test_a_damaged_journal_is_resumed_from_its_good_part(
    pair: tuple[Path, Path], undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        soup.run(configure(tmp_path / "ref", *pair), Stop(7))
    path = tmp_path / "ref.partial" / journal.NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + b"\0" * 512 + b"".join(lines[4:]))
    soup.run(configure(tmp_path / "ref", *pair, resume=True), silent)
    assert contents(tmp_path / "ref") == undisturbed


@pytest.mark.parametrize(
    "damage",
    [
        *("", "{", "[]", '{"settings": {}}', "\0\0"),
        '{"settings": {}, "files_xxh3": {}, "result": {"models": 5}}',
    ],
)
def test_a_broken_record_is_not_complete(
    pair: tuple[Path, Path], tmp_path: Path, damage: str
) -> None:
    soup.run(configure(tmp_path / "ref", *pair), silent)
    (tmp_path / "ref" / "soup.json").write_text(damage)
    with pytest.raises(SalsaError, match=r"soup\.json.*replace it with --force"):
        soup.run(configure(tmp_path / "ref", *pair, resume=True), silent)
    soup.run(configure(tmp_path / "ref", *pair, resume=True, force=True), silent)


def test_a_complete_soup_whose_weights_changed_is_not_complete(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    config = configure(tmp_path / "ref", *pair, resume=True)
    soup.run(config, silent)
    soup.run(config, silent)
    (file,) = sorted((tmp_path / "ref").glob("model*.safetensors"))[:1]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(SalsaError, match=f"{file.name} has changed; choose another -o, or replace"):
        soup.run(config, silent)
    file.unlink()
    with pytest.raises(SalsaError, match=f"{file.name} is missing"):
        soup.run(config, silent)


def test_a_disk_that_fills_up_while_companions_are_copied_keeps_the_draft(
    pair: tuple[Path, Path],
    undisturbed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("salsa_cli.weights.companions.shutil.copyfileobj", full)
        with pytest.raises(SalsaError, match=r"ref: .*the disk is full; free some space") as caught:
            soup.run(configure(tmp_path / "ref", *pair), silent)
    assert "ref.partial keeps" in str(caught.value)
    soup.run(configure(tmp_path / "ref", *pair, resume=True), silent)
    assert contents(tmp_path / "ref") == undisturbed


def test_a_path_that_is_no_utf8_is_refused_first(pair: tuple[Path, Path], tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/mod\xffel"
    Path(shutil.copytree(pair[0], tmp_path / "copy")).rename(os.fsdecode(odd))
    with pytest.raises(UsageError, match="its name is not valid UTF-8"):
        soup.run(configure(tmp_path / "ref", Path(os.fsdecode(odd)), pair[1]), silent)
    assert not (tmp_path / "ref.partial").exists()
