"""When training of what is evaluated began, as its files tell: the gate refuses a suite frozen later."""

from datetime import UTC, datetime

import pytest

from posttrain.cli.eval import _trained_at


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "run" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_model_that_no_stage_wrote_says_nothing(model):
    assert _trained_at(str(model), None) is None


def test_a_full_model_of_a_stage_began_before_its_weights_were_written(model):
    (model.parent / "result.json").write_text("{}")
    written = datetime.fromtimestamp((model / "model.safetensors").stat().st_mtime, UTC)
    assert _trained_at(str(model), None) == written.isoformat()


def test_the_time_a_recipe_noted_comes_first(model):
    (model.parent / "began.json").write_text('{"trained_at": "2026-01-01T00:00:00+00:00"}')
    assert _trained_at(str(model), None) == "2026-01-01T00:00:00+00:00"


def test_an_adapter_tells_of_itself(model, tmp_path):
    adapter = tmp_path / "other" / "adapter"
    adapter.mkdir(parents=True)
    assert _trained_at(str(model), adapter) is None
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    written = datetime.fromtimestamp((adapter / "adapter_model.safetensors").stat().st_mtime, UTC)
    assert _trained_at(str(model), adapter) == written.isoformat()
