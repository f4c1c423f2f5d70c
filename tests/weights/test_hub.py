"""What reaches the hub: a stand-in server receives it and lists the files of a real push."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from salsa_cli import execution
from salsa_cli.config.commands import COMMANDS
from salsa_cli.config.options import parse
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.weights import hub
from tests.support import hub as stand_in
from tests.support.hub import ALICE, Hub
from tests.support.worlds import World

MODEL = ("README.md", "config.json", "generation_config.json", "model.safetensors")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub at which everybody with a token is Alice."""
    with stand_in.serving() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no" / "token"))
        monkeypatch.setenv("HF_TOKEN", "hf_token")
        yield found


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A folder with a model, and with all that must not leave the machine."""
    folder = tmp_path / "policy"
    for name in (*MODEL, *TOKENIZER):
        tiny_file(folder / name)
    logs = ("metrics.jsonl", "samples.jsonl", "rewards.jsonl", "report.html", "salsa.json")
    more = ("best/config.json", "best/model.safetensors", "snapshots/000002/model.safetensors")
    notes = ("checkpoints/4/state.pt", "runs/events.out.tfevents.1", "notes.txt", ".env")
    for name in (*logs, *more, *notes, "eval_scores.jsonl", "evaluation.json", "training.log"):
        tiny_file(folder / name)
    return folder


def tiny_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


def salsa(*arguments: object) -> None:
    """A command in this process."""
    name, *typed = map(str, arguments)
    execution.execute(COMMANDS[name], parse(COMMANDS[name], typed), typed)


def test_only_the_model_is_uploaded_and_a_new_repository_is_private(
    server: Hub, result: Path
) -> None:
    before = {path: path.read_bytes() for path in result.rglob("*") if path.is_file()}
    told = hub.push(result, "lab/policy", progress=False)
    assert told == f"{server.url}/lab/policy (private)"
    assert sorted(server.files["lab/policy"]) == sorted((*MODEL, *TOKENIZER))
    assert server.private == {"lab/policy": True}
    assert {path: path.read_bytes() for path in result.rglob("*") if path.is_file()} == before


def test_a_repository_that_is_there_stays_public(server: Hub, result: Path) -> None:
    server.private["alice/policy"] = False
    assert hub.push(result, "alice/policy", progress=False).endswith("/alice/policy (public)")


def test_a_soup_takes_along_what_its_record_names(tmp_path: Path) -> None:
    for name in (*MODEL, "LICENSE", "1_Pooling/config.json", "notes.txt"):
        tiny_file(tmp_path / "soup" / name)
    record = tmp_path / "soup" / "soup.json"
    record.write_text('{"companions": ["LICENSE", "1_Pooling/config.json", "gone.txt"]}')
    named = ("LICENSE", "1_Pooling/config.json")
    assert hub.result_files(tmp_path / "soup") == tuple(sorted((*MODEL, *named)))
    record.write_text("{}")  # of an older version
    assert hub.result_files(tmp_path / "soup") == tuple(sorted(MODEL))


def test_soup_pushes_its_result(
    server: Hub, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("soup", world.a, world.b, "--push-to-hub", "lab/ref", "-o", tmp_path / "ref")
    salsa(*arguments, "--dry-run")
    assert [call for call in server.calls if "agent" not in call] == ["GET /api/whoami-v2"]
    assert not (tmp_path / "ref").exists()
    salsa(*arguments)
    sent = server.files["lab/ref"]
    assert sorted(sent) == sorted(hub.result_files(tmp_path / "ref")) and "soup.json" not in sent
    assert all((tmp_path / "ref" / name).read_bytes() == sent[name] for name in sent)
    assert str(tmp_path) not in sent["README.md"].decode()
    said = capsys.readouterr()
    assert f"uploaded to {server.url}/lab/ref (private)" in said.err
    assert "uploaded" not in said.out and "\033" not in said.err


def test_a_failed_upload_leaves_the_result_and_tells_how_to_repeat_it(
    server: Hub, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.fails = True
    output = tmp_path / "my ref"
    arguments = ("soup", world.a, world.b, "--push-to-hub", "lab/ref", "-o", output)
    with pytest.raises(SalsaError, match=r"the upload to lab/ref failed \(.*no room.*\)") as error:
        salsa(*arguments)
    message = str(error.value)
    assert f"{output} is complete. To upload it:\n  hf upload lab/ref '{output}' . --private" in (
        message
    )
    assert "--include model.safetensors" in message and "soup.json" not in message
    assert str(output) in capsys.readouterr().out  # the result was told before
    assert (output / "soup.json").is_file() and not server.files
    server.fails = False
    salsa(*arguments, "--resume")
    assert "model.safetensors" in server.files["lab/ref"]


def test_an_interrupted_upload_tells_the_same(
    server: Hub, result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(HfApi, "upload_folder", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"interrupted; .*policy is complete\. To upload"):
        hub.push(result, "lab/policy", progress=False)


def test_many_shards_are_one_pattern(tmp_path: Path) -> None:
    for number in range(1, 31):
        tiny_file(tmp_path / f"model-{number:05}-of-00030.safetensors")
    tiny_file(tmp_path / "config.json")
    command = hub.advice(tmp_path, "a/b").splitlines()[1].split()
    assert command[-4:] == ["--include", "config.json", "--include", "'model-*.safetensors'"]
    assert len(hub.result_files(tmp_path)) == 31


def refusal(repo: str = "lab/policy") -> str:
    with pytest.raises(SalsaError) as error:
        hub.check(repo)
    return str(error.value)


def test_what_could_not_be_pushed_is_refused_before_the_work(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.check("lab/policy")
    hub.check("Alice/policy")
    assert refusal("acme/policy") == (
        "--push-to-hub acme/policy: alice is logged in, who cannot write to acme; expected one of "
        "alice, lab"
    )
    server.account = {**ALICE, "auth": {"accessToken": {"role": "read"}}}
    assert "the token of alice may only read" in refusal()
    server.account = None
    assert "the hub cannot be asked who is logged in (Invalid user token." in refusal()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub cannot be asked who is logged in (" in refusal()
    monkeypatch.delenv("HF_TOKEN")
    assert "not logged in to the Hugging Face hub; run `hf auth login`" in refusal()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set" in refusal()


@pytest.mark.parametrize("repo", ["policy", "a/b/c", "lab/", "../x", "lab/a--b"])
def test_an_impossible_name_is_wrong_usage(repo: str) -> None:
    with pytest.raises(UsageError, match="expected ORG/NAME"):
        hub.check(repo)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("soup a b --probe p.jsonl -o x", "--probe writes no model; remove --push-to-hub"),
        ("train-rm rm --eval-data p.jsonl -o x", "--push-to-hub has no effect without --data"),
        ("train-rm sft --data p.jsonl --ensemble 2 -o x", "--push-to-hub uploads one model, and"),
    ],
)
def test_where_there_is_nothing_to_push_it_is_refused(typed: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        salsa(*typed.split(), "--push-to-hub", "lab/x")


def test_an_adapter_of_a_local_base_is_warned_of(tmp_path: Path) -> None:
    config = tmp_path / "adapter_config.json"
    config.write_text('{"base_model_name_or_path": "/home/al/sft"}')
    assert "names /home/al/sft as the base of the adapter" in str(hub.caution(tmp_path))
    config.write_text('{"base_model_name_or_path": "org/base"}')
    assert hub.caution(tmp_path) is None
    tiny_file(tmp_path / "model" / "config.json")
    assert hub.caution(tmp_path / "model") is None
