"""The command line as a person and a pipeline meet it: real processes, exit codes, streams."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from salsa_cli import execution
from salsa_cli.records import read_rows
from tests.support import commands, terminals, tiny
from tests.support.commands import run as salsa
from tests.support.worlds import World

VERBS = ("soup", "train-rm", "ppo", "eval")


def started(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command in a new interpreter, which takes seconds where PyTorch is needed."""
    return subprocess.run(
        [sys.executable, "-m", "salsa_cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", **(env or {})},
        check=False,
    )


def hear_interrupts() -> None:
    """In the child: a shell that runs the tests in the background lets them ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def assert_refused(
    done: subprocess.CompletedProcess[str], words: str, folder: Path, left: set[str], code: int
) -> None:
    """One message on stderr, nothing on stdout, no traceback, nothing left behind."""
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert {path.name for path in folder.iterdir()} == left


@pytest.mark.parametrize("arguments", [[], ["--help"], *([verb, "--help"] for verb in VERBS)])
def test_help_answers_without_slow_imports(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom salsa_cli.cli import main\n"
        "code = 0\ntry:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'yaml', 'pydantic', 'socket',\n"
        "         'rich.markdown'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    if len(arguments) < 2:
        assert all(verb in done.stdout for verb in VERBS)


def test_soup_needs_no_torch(world: World, tmp_path: Path) -> None:
    script = "import sys; sys.modules['torch'] = None\nfrom salsa_cli.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "soup", world.a, world.b, "-o", tmp_path / "ref"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ref" / "config.json").exists()


def test_bounds_and_defaults_are_in_the_help() -> None:
    text = re.sub(r"\s+", " ", started("ppo", "--help-all", env={"COLUMNS": "200"}).stdout)
    assert (
        "Coefficient of the penalty: reward per nat, in the reward and in the loss. "
        "[X >= 0; default: 0.05]" in text
    )
    assert "Clip range of the probability ratio. [0 < X < 1; default: 0.2]" in text
    assert "--clip" not in started("ppo", "--help").stdout


def test_version() -> None:
    for flag in ("--version", "-V"):
        assert re.fullmatch(r"salsa \d+\.\d+\.\d+\n", started(flag).stdout)


def test_windows_is_told_what_to_do() -> None:
    script = (
        "import sys\n"
        "for name in ('fcntl', 'resource', 'termios', 'pwd', 'grp'):\n"
        "    sys.modules[name] = None\n"
        "from salsa_cli.cli import main\nsys.platform = 'win32'\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "ppo"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "error: salsa runs on Linux and macOS; on Windows, run it in WSL\n"


def test_a_help_that_is_cut_short_by_its_reader() -> None:
    line = f"{sys.executable} -m salsa_cli ppo --help-all | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["pppo"],
            "no such command 'pppo' (did you mean ppo?); expected soup, train-rm, ppo, eval",
        ),
        (["--versoin"], "no such option --versoin (did you mean --version?)"),
        (["ppo", "--lr", "1"], "no such option --lr (did you mean --learning-rate?)"),
        (
            ["ppo", "--ref", "S"],
            "--reward, --prompts and --output are missing:\n"
            "  salsa ppo --ref S --reward RM --prompts DATA -o FOLDER\n",
        ),
    ],
)
def test_mistyped_command_lines(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = salsa(*arguments, cwd=tmp_path)
    assert_refused(done, words, tmp_path, set(), 2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["soup", "./a", "./b"],
        ["train-rm", "./a", "--data", "x.jsonl"],
        ["ppo", "--ref", "./a", "--reward", "./b", "--prompts", "x.jsonl"],
        ["eval", "./a", "--judge", "rm:./b", "--prompts", "x.jsonl"],
    ],
    ids=VERBS,
)
def test_mistyped_paths_are_told_without_torch(tmp_path: Path, arguments: list[str]) -> None:
    """PyTorch takes seconds to import."""
    script = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        "from salsa_cli.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments, "-o", "out"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert_refused(done, "inputs were not found", tmp_path, set(), 1)
    assert all(
        f"{name}: no such" in done.stderr for name in arguments if name in ("./a", "x.jsonl")
    )


def test_settings_from_a_file_and_the_environment(world: World, tmp_path: Path) -> None:
    (tmp_path / "salsa.toml").write_text("[soup]\nalpha = 0.25\n[ppo]\nseed = 3\n")
    command = ["soup", world.a, world.b, "-o", "ref"]
    done = salsa(*command, "--dry-run", cwd=tmp_path)
    assert "alpha = 0.25  # salsa.toml [soup]" in done.stdout and done.returncode == 0
    done = salsa(*command, "--json", cwd=tmp_path, env={"SALSA_SOUP_ALPHA": "0.75"})
    assert json.loads(done.stdout)["weights"] == [0.25, 0.75]
    made = json.loads((tmp_path / "ref" / "soup.json").read_text())
    assert made["settings"]["alpha"] == 0.75
    assert made["origins"]["alpha"] == "SALSA_SOUP_ALPHA" and made["origins"]["dtype"] == "default"


def test_data_from_stdin(world: World, tmp_path: Path) -> None:
    """Only a process of its own has a stdin to pipe into."""
    rows = "".join(f"{json.dumps(row)}\n" for row in read_rows(world.preferences))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "salsa_cli", "train-rm", world.a, "--data", "-"),
            *("-o", "rm", "--device", "cpu", "--dry-run", "--json"),
        ],
        input=rows,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["training_pairs"] == 36


def test_json_is_one_object_and_nothing_else(world: World, tmp_path: Path) -> None:
    done = started("soup", world.a, world.b, "--alpha", "0.5", "-o", "ref/", "--json", cwd=tmp_path)
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert result["output"] == "ref" and result["weights"] == [0.5, 0.5]
    assert {"tensors", "parameters", "bytes", "seconds"} <= result.keys()


def test_without_a_terminal_there_are_plain_lines(world: World, tmp_path: Path) -> None:
    forced = {"TERM": "xterm-256color", "PYTHONUTF8": "1"}
    done = started("soup", world.a, world.b, "-o", tmp_path / "ref", env=forced)
    assert "\x1b" not in done.stdout + done.stderr and "\r" not in done.stderr
    assert "averaging 2 models into 21 tensors" in done.stderr
    assert "0.5" in done.stdout


@pytest.mark.parametrize(
    ("environment", "live"),
    [
        ({"TERM": "xterm-256color", "CI": ""}, True),
        ({"TERM": "dumb", "CI": ""}, False),
        ({"TERM": "xterm-256color", "CI": "true"}, False),
        ({"TERM": "dumb", "CI": "true", "FORCE_COLOR": "1"}, False),
    ],
)
def test_control_codes_are_for_a_terminal_that_somebody_watches(
    world: World, tmp_path: Path, environment: dict[str, str], live: bool
) -> None:
    """Colours are no control codes: they move nothing."""
    command = [sys.executable, "-m", "salsa_cli", "soup", world.a, world.b, "-o", tmp_path / "ref"]
    text = terminals.shown(command, environment=environment)
    codes = re.findall(r"\x1b\[[?0-9;]*[A-Za-ln-z]", text)
    assert bool(codes) == live, codes
    assert ("averaging 2 models into 21 tensors" in text) and "0.5" in text


def test_quiet_is_silent(world: World, tmp_path: Path) -> None:
    done = salsa("soup", world.a, world.b, "-o", tmp_path / "ref", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    failed = salsa("soup", world.a, world.b, "-o", tmp_path / "ref", "-q")
    assert failed.returncode == 1 and "already exists" in failed.stderr


def test_a_record_is_a_configuration_and_flags_override_it(world: World, tmp_path: Path) -> None:
    salsa("soup", world.a, world.b, "--alpha", "0.25", "-o", tmp_path / "one")
    record = tmp_path / "one" / "soup.json"
    for order in (["--config", record, "-o", "two"], ["-o", "two", "--config", record, "--force"]):
        done = salsa("soup", *order, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["weights"] == [0.75, 0.25]
    done = salsa("soup", "--config", record, "--alpha", "1", "-o", "three", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["weights"] == [0.0, 1.0]


def test_a_complete_run_is_done_again_in_no_time(world: World, tmp_path: Path) -> None:
    """What a script that tries again meets: 0, unless it asks for another result."""
    command = ["soup", world.a, world.b, "-o"]
    assert salsa(*command, "ref", cwd=tmp_path).returncode == 0
    for same in ([], ["--memory", "64MB"], ["--verify"]):
        done = salsa(*command, tmp_path / "ref", "--resume", "--json", *same, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["output"] == "ref"
    done = salsa(*command, "ref", "--resume", "--dtype", "float16", cwd=tmp_path)
    assert done.returncode == 1
    assert "ref is complete, but was made with other settings: dtype was auto" in done.stderr


def test_every_command_names_a_module_that_is_there() -> None:
    for name in ("SOUP", "PROBE", "TRAIN_RM", "EVALUATE_RM", "PPO", "EVALUATE", "VERDICT_FILES"):
        module = getattr(execution, name)
        assert importlib.util.find_spec(module) is not None, module


# --------------------------------------------------------------------------- bad input

BAD = [
    (["soup", "A", "none", "-o", "out"], "none: no such folder; expected a Hugging Face model", 1),
    (
        ["soup", "A", "empty", "-o", "out"],
        "empty: no config.json found; expected a Hugging Face",
        1,
    ),
    (["soup", "A", "RM", "-o", "out"], "these models cannot be averaged", 1),
    (["soup", "A", "B", "-o", "taken"], "taken already exists; choose another -o, or replace", 1),
    (["soup", "A", "B", "--alpha", "1.5", "-o", "out"], "--alpha is 1.5, which is out of range", 2),
    (["soup", "A", "B", "--alpha", "x", "-o", "out"], "--alpha", 2),
    (["soup", "A", "-o", "out"], "a soup needs two or more models", 2),
    (["soup", "A", "B"], "--output is missing", 2),
    (["soup", "A", "B", "-o", "out", "--beta", "1"], "--beta", 2),
    (["soup", "A", "B", "-o", "out", "--memory", "much"], "'much' is not a size", 2),
    (["train-rm", "A", "--data", "column.jsonl", "-o", "out"], "row 2: no column 'rejected'", 1),
    (["train-rm", "A", "--data", "empty.jsonl", "-o", "out"], "empty.jsonl is empty", 1),
    (["train-rm", "none", "--data", "PREFS", "-o", "out"], "none: no such folder", 1),
    (["train-rm", "A", "--data", "PREFS", "-o", "out", "--epochs", "0"], "--epochs is 0", 2),
    (["train-rm", "A", "--data", "PREFS", "-o", "taken"], "taken already exists", 1),
    (
        ["ppo", "--ref", "S", "--reward", "RM", "--prompts", "empty.jsonl", "-o", "out"],
        "is empty",
        1,
    ),
    (
        "ppo --ref S --reward A --prompts P -o out --response-length 4".split(),
        "no trained score head",
        1,
    ),
    (["ppo", "--ref", "S", "--reward", "none", "--prompts", "P", "-o", "out"], "none: no such", 1),
    (
        ["ppo", "--ref", "empty", "--reward", "RM", "--prompts", "P", "-o", "out"],
        "no config.json",
        1,
    ),
    (["ppo", "--ref", "S", "--reward", "RM", "--prompts", "P", "-o", "taken"], "already exists", 1),
    (
        ["ppo", "--ref", "S", "--reward", "RM", "--prompts", "P", "-o", "out", "--kl-coef", "-1"],
        "--kl-coef is -1, which is out of range; expected a number, X >= 0",
        2,
    ),
    (["eval", "A", "none", "--prompts", "P", "--judge", "rm:RM", "-o", "out"], "none: no such", 1),
    (["eval", "A", "--prompts", "column.jsonl", "--judge", "rm:x", "-o", "out"], "x: no such", 1),
    (["eval", "A", "--prompts", "none.jsonl", "--judge", "rm:RM", "-o", "out"], "no such file", 1),
    (["eval", "A", "--prompts", "P", "--judge", "who", "-o", "out"], "--judge who: expected", 2),
]


@pytest.mark.parametrize(("arguments", "words", "code"), BAD)
def test_bad_input(
    world: World, tmp_path: Path, arguments: list[str], words: str, code: int
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.json").touch()
    (tmp_path / "empty.jsonl").write_text("")
    tiny.write_rows(
        tmp_path / "column.jsonl",
        [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b"}],
    )
    named = {"A": world.a, "B": world.b, "S": world.soup, "RM": world.rm}
    named |= {"P": world.prompts, "PREFS": world.preferences, "rm:RM": f"rm:{world.rm}"}  # type: ignore[dict-item]
    done = salsa(*(named.get(word, word) for word in arguments), cwd=tmp_path)
    given = {"empty", "taken", "empty.jsonl", "column.jsonl"}
    assert_refused(done, words, tmp_path, given, code)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = started("soup", "x", "y", "-o", "out", cwd=tmp_path, env={"SALSA_DEBUG": "1"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "no such folder" in done.stderr


# --------------------------------------------------------------------------- interruption


def lengthy(world: World) -> dict[str, list[object]]:
    """Each command with enough to do that it can be stopped in the middle."""
    sleepy = world.prompts.with_name("sleepy.py")
    sleepy.write_text("import time\ndef score(prompts, answers):\n    time.sleep(600)\n")
    rows = [{**row, "answer": "sat"} for row in read_rows(world.prompts)]
    given = tiny.write_rows(world.prompts.with_name("given.jsonl"), rows)
    return {
        "train-rm": ["train-rm", world.a, "--data", world.preferences, "--epochs", 10_000],
        "ppo": [
            *("ppo", "--ref", world.soup, "--reward", world.rm, "--prompts", world.prompts),
            *("--updates", 10_000, "--response-length", 4, "--save-every", 10_000),
        ],
        "eval": [
            *("eval", "--answers", f"x={given}", "--answers", f"y={given}"),
            *("--prompts", world.prompts, "--judge", f"python:{sleepy}:score"),
        ],
    }


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_an_interrupted_training_of_a_reward_keeps_its_steps(
    world: World, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    """Long before the first checkpoint is due."""
    process = commands.Command(*lengthy(world)["train-rm"], "-o", "out", cwd=tmp_path)
    metrics = tmp_path / "out.partial" / "metrics.jsonl"
    while not metrics.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert stdout == "" and "Traceback" not in stderr
    assert "keeps the run up to step" in stderr and "continue it with --resume" in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]


@pytest.mark.parametrize("verb", ["eval"])
@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_an_interrupted_command_leaves_nothing(
    world: World, tmp_path: Path, verb: str, sent: signal.Signals, code: int
) -> None:
    process = commands.Command(*lengthy(world)[verb], "-o", "out", cwd=tmp_path)
    while not (tmp_path / "out.partial").exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert stdout == "" and "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_soup_leaves_what_can_be_continued(world: World, tmp_path: Path) -> None:
    """The soup of this world takes milliseconds, so the signal is sent from within."""
    script = (
        "import os, signal\nfrom salsa_cli import cli, soup\n"
        "soup.write_companions = lambda *rest: os.kill(os.getpid(), signal.SIGINT)\ncli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "soup", world.a, world.b, "-o", tmp_path / "ref"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=hear_interrupts,
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "ref.partial keeps 1 finished block; continue it with --resume" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["ref.partial"]
    salsa("soup", world.a, world.b, "-o", tmp_path / "ref", "--resume")
    assert [path.name for path in tmp_path.iterdir()] == ["ref"]


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_an_interrupted_ppo_finishes_its_update_and_says_how_to_go_on(
    world: World, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    process = commands.Command(*lengthy(world)["ppo"], "-o", "out", cwd=tmp_path)
    metrics = tmp_path / "out.partial" / "metrics.jsonl"
    while not metrics.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    rows = metrics.read_text().count("\n")
    again = "press Ctrl-C again" if sent is signal.SIGINT else "send SIGTERM again"
    assert f"finishing this step, then stopping; {again} to stop at once" in stderr
    assert f"keeps the run up to step {rows}; continue it with --resume" in stderr
    assert "Traceback" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]
    assert not (tmp_path / "out.partial" / "config.json").exists()


def test_an_interrupted_eval_keeps_its_answers(world: World, tmp_path: Path) -> None:
    arguments = [*lengthy(world)["eval"], world.a, "--response-length", 6, "-o", "out"]
    process = commands.Command(*arguments, cwd=tmp_path)
    answers = tmp_path / "out.partial" / "answers"
    while process.poll() is None and not any(f.stat().st_size for f in answers.glob("*.jsonl")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"keeps \d+ answers? and 0 judgements; continue it with --resume", stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]


def test_a_killed_eval_goes_on_to_the_same_answers(world: World, tmp_path: Path) -> None:
    rows = [{"prompt": f"{a} {b}"} for a in tiny.WORDS for b in tiny.WORDS[:8]]
    prompts = tiny.write_rows(tmp_path / "p.jsonl", rows)
    arguments = [
        *("eval", world.a, world.b, "--prompts", prompts, "--judge", f"rm:{world.rm}"),
        *("--response-length", 20, "--batch-size", 8, "--draws", 100, "--device", "cpu"),
    ]
    process = commands.Command(*arguments, "-o", "out", cwd=tmp_path)
    second = tmp_path / "out.partial" / "answers" / "b.jsonl"
    while not (second.exists() and second.read_bytes().count(b"\n") > 30):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    made = second.read_bytes()
    assert made.count(b"\n") < len(rows)
    refused = salsa(*arguments, "-o", "out", cwd=tmp_path)
    assert refused.returncode == 1 and "continue it with --resume" in refused.stderr
    assert second.read_bytes() == made
    for folder, more in (("out", ["--resume"]), ("whole", [])):
        done = salsa(*arguments, "-o", folder, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    for name in ("answers/a.jsonl", "answers/b.jsonl", "judgments.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "out.partial").exists()


def test_a_reader_that_goes_away_is_no_error(world: World, tmp_path: Path) -> None:
    command = f"{sys.executable} -m salsa_cli soup {world.a} {world.b} -o {tmp_path}/ref --json"
    done = subprocess.run(
        f"set -o pipefail; {command} | true", shell=True, executable="bash", capture_output=True
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert (tmp_path / "ref" / "config.json").exists()
