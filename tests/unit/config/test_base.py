import pytest
from pydantic import Field

from posttrain.config import Config, Registry, apply_overrides, content_hash, parse, read_yaml
from posttrain.errors import ConfigError


class Inner(Config):
    learning_rate: float = Field(1e-4, gt=0, le=1)
    """Step size."""


class Outer(Config):
    name: str
    training: Inner = Inner()
    parts: tuple[Inner, ...] = ()


def test_a_misspelt_key_is_named_with_the_nearest_known_one():
    with pytest.raises(ConfigError, match=r"unknown key 'training\.learnin_rate': did you mean 'learning_rate'\?") as caught:
        parse(Outer, {"name": "a", "training": {"learnin_rate": 0.1}}, where="r.yaml")
    assert "r.yaml" in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_misspelt_key_inside_a_list_is_explained_by_the_class_of_the_item():
    with pytest.raises(ConfigError, match=r"unknown key 'parts\.0\.learning_rat'.*'learning_rate'"):
        parse(Outer, {"name": "a", "parts": [{"learning_rat": 1}]}, where="x")


def test_an_out_of_range_value_says_the_bound_and_the_value_seen():
    with pytest.raises(ConfigError, match=r"'training\.learning_rate': input should be less than or equal to 1 \(got 5\)"):
        parse(Outer, {"name": "a", "training": {"learning_rate": 5}}, where="x")


def test_every_problem_is_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        parse(Outer, {"training": {"learning_rate": -1}, "nam": 1}, where="x")
    assert all(text in str(caught.value) for text in ("'name' is required", "learning_rate", "unknown key 'nam'"))


def test_configurations_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Inner().learning_rate = 2.0


def test_yaml_is_read_as_version_1_2(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("rate: 5e-4\nanswer: no\nmode: 0o17\n")
    assert read_yaml(path) == {"rate": 5e-4, "answer": "no", "mode": 15}


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", r"a\.yaml:1:6: not valid YAML"), ("- 1\n", "expected a mapping at the top, found list"), ("", "found NoneType")],
)
def test_a_broken_yaml_file_names_file_and_place(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_yaml(path)


def test_a_missing_yaml_file_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")


def test_overrides_reach_into_mappings_and_lists_and_leave_the_original_alone():
    data = {"stages": [{"sft": {"lora": {"rank": 16}}}], "seed": 1}
    changed = apply_overrides(data, ["stages.0.sft.lora.rank=8", "seed=2", "new.key=5e-4"])
    assert changed == {"stages": [{"sft": {"lora": {"rank": 8}}}], "seed": 2, "new": {"key": 5e-4}}
    assert data["seed"] == 1


@pytest.mark.parametrize("override", ["seed", "=3", "stages.7.sft=1", "stages.x.sft=1", "seed.deeper=1"])
def test_a_broken_override_is_refused(override):
    with pytest.raises(ConfigError, match="override"):
        apply_overrides({"stages": [{}], "seed": 1}, [override])


def test_content_hash_ignores_key_order_only():
    assert content_hash({"a": 1, "b": [1, 2]}) == content_hash({"b": [1, 2], "a": 1})
    assert content_hash({"a": 1, "b": [1, 2]}) != content_hash({"a": 1, "b": [2, 1]})


def test_a_registry_refuses_duplicates_and_suggests_near_misses():
    registry: Registry[int] = Registry("scorer")
    registry.register("contains")(1)
    with pytest.raises(ConfigError, match="registered twice"):
        registry.register("contains")(2)
    with pytest.raises(ConfigError, match=r"unknown scorer 'contain'\n  -> did you mean 'contains'\?"):
        registry.get("contain")
    assert list(registry) == ["contains"]
    assert "contains" in registry
