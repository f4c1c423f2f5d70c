"""Settings from flags, environment, files and defaults, and where each one comes from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from salsa_cli.config import options, sources
from salsa_cli.config.base import Config
from salsa_cli.config.commands import COMMANDS
from salsa_cli.config.record import origins, record
from salsa_cli.errors import UsageError

PPO = "--ref ref/ --reward rm/ --prompts p.jsonl -o out".split()


def configure(
    folder: Path, command: str, *arguments: str, env: Mapping[str, str] | None = None
) -> Any:
    given = options.parse(COMMANDS[command], arguments)
    return sources.configure(COMMANDS[command], given, arguments, env or {}, folder)


def test_each_source_overrides_those_after_it(tmp_path: Path) -> None:
    (tmp_path / "salsa.toml").write_text(
        "[all]\nseed = 1\nbatch_size = 8\n[ppo]\nseed = 2\nupdates = 5\nlambda = 0.9\n"
    )
    config = configure(tmp_path, "ppo", *PPO)
    assert (config.seed, config.batch_size, config.updates, config.lam) == (2, 8, 5, 0.9)
    env = {"SALSA_PPO_SEED": "3", "SALSA_PPO_REWARD": "rm-1/,rm-2/", "SALSA_EVAL_SEED": "9"}
    config = configure(tmp_path, "ppo", *PPO, env=env)
    assert (config.seed, config.reward) == (3, ("rm/",))
    config = configure(tmp_path, "ppo", *PPO, "--seed", "4", env=env)
    assert config.seed == 4 and config.clip == 0.2
    shown = origins(config)
    assert {key: shown[key] for key in ("seed", "batch_size", "updates", "lambda", "clip")} == {
        "seed": "--seed",
        "batch_size": "salsa.toml [all]",
        "updates": "salsa.toml [ppo]",
        "lambda": "salsa.toml [ppo]",
        "clip": "default",
    }
    assert record(config)["lambda"] == 0.9


def test_what_has_no_effect_is_ignored_in_files_and_refused_as_a_flag(
    tmp_path: Path,
) -> None:
    (tmp_path / "salsa.toml").write_text("[ppo]\ncritic_learning_rate = 1e-3\nlambda = 1\n")
    env = {"SALSA_PPO_CRITIC_WARMUP": "2"}
    config = configure(tmp_path, "ppo", *PPO, env=env)
    assert (config.lam, config.critic_warmup, config.ignored) == (1.0, 2, ())
    config = configure(tmp_path, "ppo", *PPO, "--advantage", "rloo", env=env)
    assert (config.lam, config.critic_learning_rate, config.critic_warmup) == (0.95, None, 0)
    assert origins(config)["lambda"] == "default"
    assert [text.partition(",")[0] for text in config.ignored] == [
        "salsa.toml [ppo]: lambda is ignored",
        "salsa.toml [ppo]: critic_learning_rate is ignored",
        "SALSA_PPO_CRITIC_WARMUP: critic_warmup is ignored",
    ]
    assert config.ignored[0].endswith("it has no effect with --advantage rloo")
    (tmp_path / "salsa.toml").write_text("[eval]\njudge = ['rm:rm/']\nprompts = 'p.jsonl'\n")
    counting = ("--judgments", "j.jsonl", "-o", "out")
    config = configure(tmp_path, "eval", *counting)
    assert (config.judge, config.prompts) == ((), "p.jsonl")
    assert config.ignored[0].endswith("judge is ignored, because it has no effect with --judgments")
    with pytest.raises(UsageError, match="--judge would have no effect"):
        configure(tmp_path, "eval", *counting, "--judge", "rm:rm/")
    (tmp_path / "salsa.toml").unlink()
    with pytest.raises(UsageError, match="--lambda is not used by --advantage rloo"):
        configure(tmp_path, "ppo", *PPO, "--advantage", "rloo", "--lambda", "1")


def test_required_settings_may_come_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "salsa.toml").write_text('[ppo]\nprompts = "p.jsonl"\nref = ["a/", "b/"]\n')
    env = {"SALSA_PPO_REWARD": "rm-1/,rm-2/", "SALSA_PPO_PENALTY": "mean-kl"}
    config = configure(tmp_path, "ppo", "-o", "out", env=env)
    assert (config.ref, config.reward) == (("a/", "b/"), ("rm-1/", "rm-2/"))
    (tmp_path / "salsa.toml").write_text('[soup]\nmodels = ["a/", "b/"]\noutput = "ref"\n')
    assert configure(tmp_path, "soup").models == ("a/", "b/")


def test_all_that_is_missing_is_named_with_a_command_to_copy(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        configure(tmp_path, "ppo", "--ref", "my ref", "--updates", "3")
    assert str(caught.value) == (
        "--reward, --prompts and --output are missing:\n"
        "  salsa ppo --ref 'my ref' --updates 3 --reward RM --prompts DATA -o FOLDER"
    )
    with pytest.raises(UsageError, match="MODEL is missing:\n  salsa train-rm -o out MODEL"):
        configure(tmp_path, "train-rm", "-o", "out")


def test_one_of_two_settings_that_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "salsa.toml").write_text("[soup]\nweights = [0.2, 0.8]\n")
    config = configure(tmp_path, "soup", "a", "b", "-o", "out", "--alpha", "0.5")
    assert (config.alpha, config.weights) == (0.5, None)
    config = configure(tmp_path, "soup", "a", "b", "-o", "out", env={"SALSA_SOUP_ALPHA": "0.1"})
    assert config.mixing == (0.9, 0.1)
    with pytest.raises(UsageError, match="use one of them"):
        line = "a b -o out --alpha 0.5 --weights 0.5,0.5".split()
        configure(tmp_path, "soup", *line)


def test_a_named_file_stands_in_for_salsa_toml(tmp_path: Path) -> None:
    """So a record gives the same run wherever it is read."""
    (tmp_path / "salsa.toml").write_text("[soup]\nalpha = 0.9\nverify = true\n")
    first = configure(tmp_path, "soup", "a", "b", "-o", "out", "--alpha", "0.25")
    made = {"command": "soup", "settings": record(first), "origins": origins(first)}
    (tmp_path / "soup.json").write_text(json.dumps(made))
    named = ["--config", str(tmp_path / "soup.json")]
    again = configure(tmp_path, "soup", *named)
    assert again == first
    assert set(origins(again).values()) == {f"--config {tmp_path}/soup.json"}
    again = configure(tmp_path, "soup", *named, "--no-verify", "-o", "other")
    assert again.verify is False and again.output == Path("other") and again.alpha == 0.25


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.toml", 'ref = "a/"\nreward = ["r/", "s/"]\nlambda = 1\nprompts = "p"\noutput = "o"'),
        ("c.toml", '[all]\nprompts = "p"\n[ppo]\nref="a/"\nreward="r/,s/"\nlam=1\noutput="o"'),
        ("c.yaml", "ref: a/\nreward: [r/, s/]\nlambda: 1\nprompts: p\noutput: o\n"),
        (
            "c.json",
            '{"settings": {"ref": ["a/"], "reward": ["r/", "s/"], "lam": 1, '
            '"prompts": "p", "output": "o"}}',
        ),
        ("c.yml", "ppo:\n  ref: a/\n  reward: r/,s/\n  lambda: 1\n  prompts: p\n  output: o\n"),
    ],
)
def test_files_of_every_kind(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    config = configure(tmp_path, "ppo", "--config", str(path))
    assert (config.ref, config.reward, config.lam) == (("a/",), ("r/", "s/"), 1.0)
    assert (config.prompts, config.output) == ("p", Path("o"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("salsa.toml", "[ppo]\nupdats = 3\n", "[ppo]: unknown setting updats (did you mean "),
        (
            "salsa.toml",
            "[all]\nlr = 3\n",
            "unknown setting lr (did you mean learning_rate?)",
        ),
        ("salsa.toml", "[pppo]\n", "salsa.toml: unknown table [pppo] (did you mean ppo"),
        (
            "salsa.toml",
            "[ppo]\nupdates = 'x'\n",
            "[ppo]: updates is x; expected a whole",
        ),
        (
            "salsa.toml",
            "updates = 3\n",
            "salsa.toml: updates is outside of a table; expected [all]",
        ),
        ("salsa.toml", "[ppo\n", "salsa.toml: malformed TOML: "),
        ("c.yaml", "alpha: 0.5\nalfa: 1\n", "unknown setting alpha, alfa"),
        ("c.yaml", "a: [1,\nb: 2", "line 2, column 5: this is neither JSON nor YAML"),
        ("c.yaml", "- 1\n", "expected a mapping"),
        ("c.json", '{"updates": null}', "c.json: updates is null; expected a whole number"),
        ("none.yaml", None, "none.yaml: No such file or directory"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    named = [] if name == "salsa.toml" else ["--config", str(tmp_path / name)]
    with pytest.raises(UsageError) as caught:
        configure(tmp_path, "ppo", *PPO, *named)
    assert words in str(caught.value)


def test_a_comma_in_a_list_of_a_file_is_part_of_the_item(tmp_path: Path) -> None:
    (tmp_path / "salsa.toml").write_text(
        '[eval]\njudge = ["python:/a,b/gold.py:score", "rm:rm/"]\n'
    )
    line = ["m", "--prompts", "p", "-o", "out"]
    config = configure(tmp_path, "eval", *line)
    assert config.judge == ("python:/a,b/gold.py:score", "rm:rm/")
    config = configure(tmp_path, "eval", *line, env={"SALSA_EVAL_JUDGE": "rm:a/,rm:b/"})
    assert config.judge == ("rm:a/", "rm:b/")


def test_a_variable_that_sets_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        configure(tmp_path, "ppo", *PPO, env={"SALSA_PPO_UPDATS": "3"})
    assert (
        "SALSA_PPO_UPDATS is set, but there is no such setting (did you mean SALSA_PPO_UPDATES?)"
        in str(caught.value)
    )
    with pytest.raises(UsageError, match="SALSA_PPO_UPDATES is many; expected a whole number"):
        configure(tmp_path, "ppo", *PPO, env={"SALSA_PPO_UPDATES": "many"})
    config: Config = configure(tmp_path, "ppo", *PPO, env={"SALSA_PPO_UPDATES": ""})
    assert "updates" not in config.origins  # empty is as good as unset


def test_settings_for_a_dry_run(tmp_path: Path) -> None:
    config = configure(tmp_path, "ppo", *PPO, "--kl-coef", "0.1")
    shown = {key: (value, source) for key, value, source in sources.described(config)}
    assert shown["kl_coef"] == (0.1, "--kl-coef") and shown["lambda"] == (0.95, "default")
    assert shown["output"] == ("out", "--output")
