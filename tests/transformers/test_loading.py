"""Loading a model, and what is said when it cannot be."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dynamo._core.errors import ConfigError, NotFound
from dynamo.transformers import TransformersEngine
from dynamo.transformers._loading import load_model


def without(model: Path, out: Path, *names: str) -> Path:
    """A copy of a model directory that lacks some files."""
    shutil.copytree(model, out)
    for name in names:
        (out / name).unlink()
    return out


def test_dtype_auto_is_that_of_the_files(tiny_model: Path) -> None:
    assert load_model(str(tiny_model), device="cpu").model.dtype == torch.bfloat16
    assert load_model(str(tiny_model), device="cpu", dtype="float32").model.dtype == torch.float32


def test_a_shorter_context_may_be_asked_for_and_a_longer_one_is_refused(tiny_model: Path) -> None:
    assert load_model(str(tiny_model), max_context_length=100).max_context_length == 100
    with pytest.raises(ConfigError, match="4096"):
        load_model(str(tiny_model), max_context_length=4097)


def test_the_model_s_own_settings_are_read(tiny_model: Path, tmp_path: Path) -> None:
    model = without(tiny_model, tmp_path / "model")
    file = model / "generation_config.json"
    said = {"eos_token_id": [3, 7], "do_sample": True, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1}
    file.write_text(json.dumps(said))
    loaded = load_model(str(model))
    assert loaded.eos_token_ids == (3, 7)
    assert (loaded.defaults.temperature, loaded.defaults.top_k, loaded.defaults.top_p) == (0.6, 20, None)
    file.write_text(json.dumps(said | {"do_sample": False}))
    assert load_model(str(model)).defaults.temperature is None


def test_a_missing_directory_is_not_found() -> None:
    with pytest.raises(NotFound, match="no model directory at '/no/such/model'"):
        load_model("/no/such/model")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named_in_one_line(tiny_model: Path, tmp_path: Path, missing: str) -> None:
    model = without(tiny_model, tmp_path / "model", missing)
    with pytest.raises(ConfigError) as caught:
        load_model(str(model))
    assert missing in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_are_pickled_are_not_read(tiny_model: Path, tmp_path: Path) -> None:
    model = without(tiny_model, tmp_path / "model", "model.safetensors")
    torch.save({}, model / "pytorch_model.bin")
    with pytest.raises(ConfigError):
        load_model(str(model))


def test_weights_that_are_cut_short_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = without(tiny_model, tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match="cannot load the model"):
        load_model(str(model))


def test_weights_that_lack_a_tensor_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = without(tiny_model, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"model\.norm\.weight"):
        load_model(str(model))


@pytest.mark.parametrize(
    ("settings", "named"), [({"device": "abacus"}, "abacus"), ({"dtype": "int3"}, "int3")], ids=["device", "dtype"]
)
def test_a_setting_that_is_not_known_is_named(tiny_model: Path, settings: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_model(str(tiny_model), **settings)  # type: ignore[arg-type]


async def test_starting_says_what_runs_where(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        engine = await TransformersEngine.start(str(tiny_model), device="cpu", dtype="float32")
    await engine.close()
    assert "LlamaForCausalLM on cpu in float32" in caplog.text
    assert "278,848 parameters" in caplog.text


def test_without_torch_the_package_to_install_is_named() -> None:
    """In a process where torch cannot be imported; importing the package itself works there."""
    script = (
        "import sys\nsys.modules['torch'] = None\n"
        "from dynamo.transformers import TransformersEngine\n"
        "try:\n    TransformersEngine.load('x')\nexcept Exception as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=50)
    assert "pip install 'dynamo-serve[transformers]'" in done.stdout
