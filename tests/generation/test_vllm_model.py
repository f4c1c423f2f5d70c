"""What a vLLM server serves, and the comparison of its shape with the policy's."""

from pathlib import Path
from typing import Any

import pytest

from salsa_cli.errors import SalsaError
from salsa_cli.generation import vllm_model
from salsa_cli.generation.vllm_model import ServedModel
from tests.support import stand_in, tiny
from tests.support.stand_in import Reply, told
from tests.support.worlds import World

URL = "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 32, "num_attention_heads": 4}, "hidden_size is 32 (expected 16), num_att"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3 (expected 2)."),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2 (expected 1)."),
        ({"intermediate_size": 16}, "intermediate_size is 16 (expected 32)."),
        ({"vocab_size": 25}, "vocab_size is 25 (expected 24)."),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True (expected False)."),
    ],
)
def test_every_difference_of_shape_is_named(
    world: World, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    tiny.config(**changes).save_pretrained(tmp_path)
    with pytest.raises(SalsaError) as caught:
        vllm_model.check_fits(URL, ServedModel("x", str(tmp_path), 64), world.a)
    message = str(caught.value)
    assert f"{URL} serves {tmp_path}, which does not fit the policy {world.a}: {words}" in message
    assert f"vllm serve {world.a} --host 127.0.0.1" in message


def test_the_same_shape_fits_and_an_unknown_one_is_not_compared(
    world: World, tmp_path: Path
) -> None:
    def fits(root: str | None) -> bool:
        return vllm_model.check_fits(URL, ServedModel("x", root, 64), world.a)

    assert fits(str(world.b))
    assert not fits(None)
    assert not fits(str(tmp_path / "gone"))  # a folder of another machine


@pytest.mark.parametrize(
    "reply",
    [
        (404, b""),
        (200, b"vllm_config"),
        told({"vllm_config": "model='x', dtype=torch.float32"}),  # its text format
        told({"vllm_config": {"model_config": {"dtype": 3}}}),
        told([1]),
    ],
)
def test_a_server_need_not_say_in_which_type_it_computes(world: World, reply: Reply) -> None:
    with stand_in.serving(world.a) as server:
        server.instead = lambda path, body: reply if path.startswith("/server_info") else None
        found = vllm_model.served_model(server.url, 5.0)
    assert found == ServedModel(stand_in.NAME, str(world.a), 64, None)


def test_adapters_are_not_the_served_model(world: World) -> None:
    listed = [{"id": "lora", "root": "y", "parent": "x"}, {"id": "x"}]
    with stand_in.serving(world.a) as server:
        server.instead = lambda path, body: told({"data": listed}) if path == "/v1/models" else None
        assert vllm_model.served_model(server.url, 5.0) == ServedModel("x", None, None, "float32")
