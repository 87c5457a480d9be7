"""Settings of a training command: the YAML file, then what was given as an option."""

import pytest

from posttrain.cli.stage_command import stage_settings
from posttrain.errors import ConfigError

FILE = "data: a.jsonl\nlora: {rank: 4, targets: attention+mlp}\ntraining: {epochs: 2}\n"


@pytest.mark.parametrize(
    ("options", "lora"),
    [
        ({}, {"rank": 4, "targets": "attention+mlp"}),
        ({"lora_rank": 8}, {"rank": 8, "targets": "attention+mlp"}),
        ({"lora_targets": "attention"}, {"rank": 4, "targets": "attention"}),
    ],
)
def test_an_option_replaces_its_own_setting_of_the_file_and_no_other(tmp_path, options, lora):
    file = tmp_path / "stage.yaml"
    file.write_text(FILE)
    settings = stage_settings(str(file), {"data": "b.jsonl", "objective": ""}, **options)
    assert settings == {"data": "b.jsonl", "lora": lora, "training": {"epochs": 2}}


def test_targets_without_an_adapter_are_refused():
    with pytest.raises(ConfigError, match="there is none"):
        stage_settings("", {"data": "b.jsonl"}, lora_targets="attention")
