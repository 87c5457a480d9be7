import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_python_example_trains_a_model_that_ships(tmp_path, capsys):
    main = runpy.run_path(str(EXAMPLES / "train_and_judge.py"))["main"]
    assert main(tmp_path) == "ship"
    assert "SHIP: all" in capsys.readouterr().out


def test_every_example_has_a_test():
    tested = Path(__file__).read_text()
    assert all(example.name in tested for example in EXAMPLES.glob("*.py"))
