"""Differences that the user allows: averaged, said and recorded."""

import json
import shutil
from pathlib import Path

import pytest

from salsa_cli import soup
from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.runs.events import Event, Warned, silent
from tests.support import tiny
from tests.support.worlds import World


def test_an_allowed_difference_is_averaged_and_recorded(world: World, tmp_path: Path) -> None:
    other = Path(shutil.copytree(world.b, tmp_path / "other"))
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 1e-3}))
    models = (str(world.a), str(other))
    events: list[Event] = []
    with pytest.raises(SalsaError, match=r"anyway: --allow-different config\.rms_norm_eps$"):
        soup.run(SoupConfig(models=models, output=tmp_path / "ref"), events.append)
    allowed = ("config.rms_norm_eps", "config.hidden_act")
    config = SoupConfig(models=models, output=tmp_path / "ref", allow_different=allowed)
    soup.run(config, events.append)
    made = json.loads((tmp_path / "ref" / "soup.json").read_text())
    assert made["settings"]["allow_different"] == list(allowed)
    told = [event.text for event in events if isinstance(event, Warned)]
    assert any("rms_norm_eps: 1e-06 in" in text and "uses that of" in text for text in told)
    assert "--allow-different config.hidden_act: the models do not differ in it" in told
    assert "--allow-different config.rms_norm_eps" in (tmp_path / "ref" / "README.md").read_text()


def test_a_misspelt_key_is_refused(tmp_path: Path) -> None:
    a = tiny.save_language_model(tmp_path / "a", seed=1)
    b = tiny.save_language_model(tmp_path / "b", seed=2, rms_norm_eps=1e-3)
    models = (str(a), str(b))
    says = "config.rms_norm: unknown key; the models differ in config.rms_norm_eps"
    for allowed in (("config.rms_norm",), ("config.rms_norm_eps", "config.rms_norm")):
        config = SoupConfig(models=models, output=tmp_path / "ref", allow_different=allowed)
        with pytest.raises(UsageError, match=says):
            soup.run(config, silent)
    config = SoupConfig(models=(str(a), str(a)), output=tmp_path / "r", allow_different=("x",))
    with pytest.raises(UsageError, match="x: unknown key; nothing differs"):
        soup.run(config, silent)


def test_the_way_through_is_named_only_where_it_is_one(tmp_path: Path) -> None:
    a = tiny.save_language_model(tmp_path / "a", seed=1)
    b = tiny.save_language_model(tmp_path / "b", seed=2, intermediate_size=48)
    config = SoupConfig(models=(str(a), str(b)), output=tmp_path / "ref")
    with pytest.raises(SalsaError, match=r"config\.json intermediate_size: ") as caught:
        soup.run(config, silent)
    assert "--allow-different" not in str(caught.value)
