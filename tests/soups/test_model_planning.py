"""Differences that the user allows: averaged, said and recorded."""

import json
import shutil
from pathlib import Path

import pytest

from salsa_cli import soup
from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError
from salsa_cli.runs.events import Event, Warned
from tests.support.worlds import World


def test_an_allowed_difference_is_averaged_and_recorded(world: World, tmp_path: Path) -> None:
    other = Path(shutil.copytree(world.b, tmp_path / "other"))
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 1e-3}))
    models = (str(world.a), str(other))
    events: list[Event] = []
    with pytest.raises(SalsaError, match=r"same: --allow-different config\.rms_norm_eps$"):
        soup.run(SoupConfig(models=models, output=tmp_path / "ref"), events.append)
    allowed = ("config.rms_norm_eps", "config.hidden_act")
    config = SoupConfig(models=models, output=tmp_path / "ref", allow_different=allowed)
    soup.run(config, events.append)
    made = json.loads((tmp_path / "ref" / "soup.json").read_text())
    assert made["settings"]["allow_different"] == list(allowed)
    told = [event.text for event in events if isinstance(event, Warned)]
    assert any("rms_norm_eps: 1e-06 in" in text and "takes that of" in text for text in told)
    assert "--allow-different config.hidden_act: the models do not differ in it" in told
    assert "--allow-different config.rms_norm_eps" in (tmp_path / "ref" / "README.md").read_text()
