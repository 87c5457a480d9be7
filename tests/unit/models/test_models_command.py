import json

import pytest
from typer.testing import CliRunner

from posttrain.cli.models import app
from posttrain.errors import ModelError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def call(*arguments):
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_a_model_is_added_listed_shown_and_counted(model_path):
    added = call("add", str(model_path), "--name", "mine")
    assert [record["path"] for record in call("list")["models"]] == [added["path"]]
    shown = call("show", "mine")
    assert (shown["family"], shown["layout"], shown["files"]) == ("llama", "forest", added["files"])
    counted = call("params", "mine", "--rank", "4")
    # hidden 32, 2 key heads of 8: q and o 32x32, k and v 16x32, two layers
    assert counted["adapter"] == 2 * 4 * (2 * (32 + 32) + 2 * (16 + 32))
    assert counted["model"] == shown["parameters"]


def test_an_unknown_model_is_an_error_that_names_the_nearest(model_path):
    call("add", str(model_path), "--name", "mine")
    with pytest.raises(ModelError, match="did you mean 'mine'"):
        CliRunner().invoke(app, ["show", "mone"], catch_exceptions=False)
