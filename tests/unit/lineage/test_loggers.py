import json
import sqlite3
import warnings

import pytest

from posttrain.errors import ConfigError
from posttrain.lineage import SafeLoggers, build_loggers, check_loggers, loggers


def log_steps(folder, steps, *, lr=1e-4, name="loss"):
    logger = build_loggers(["jsonl"], folder)
    logger.log_params({"lr": lr, "betas": (0.9, 0.99)})
    for step in steps:
        logger.log_metrics({name: step / 2, "odd": float("nan")}, step)
    logger.close()
    return (folder / "log.jsonl").read_text()


def test_jsonl_logger_writes_a_line_at_once(tmp_path):
    logger = build_loggers(["jsonl"], tmp_path)
    logger.log_params({"lr": 1e-4})
    logger.log_metrics({"loss": 1.5, "odd": float("nan")}, 1)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows == [{"params": {"lr": 1e-4}}, {"step": 1, "metrics": {"loss": 1.5, "odd": "nan"}}]
    logger.close()


def test_the_log_of_a_killed_and_resumed_run_is_that_of_one_that_was_never_killed(tmp_path):
    whole = log_steps(tmp_path / "whole", range(1, 9))
    log_steps(tmp_path / "killed", range(1, 7))
    with open(tmp_path / "killed" / "log.jsonl", "a", encoding="utf-8") as log:
        log.write('{"step": 7, "met')  # killed in the middle of a line
    assert log_steps(tmp_path / "killed", range(5, 9)) == whole  # the checkpoint was of step 4
    assert log_steps(tmp_path / "killed", []) == whole  # a finished run called again


def test_a_run_that_starts_afresh_with_other_settings_has_its_own_curves_alone(tmp_path):
    log_steps(tmp_path, range(1, 5))
    rows = [json.loads(line) for line in log_steps(tmp_path, range(1, 3), lr=1e-3, name="new").splitlines()]
    assert [row["params"]["lr"] for row in rows if "params" in row] == [1e-4, 1e-3]
    assert [(row["step"], "new" in row["metrics"]) for row in rows if "step" in row] == [(1, True), (2, True)]


def test_several_rows_of_one_step_stay(tmp_path):
    assert len(log_steps(tmp_path, [1, 1, 2]).splitlines()) == 4


def test_a_logger_that_breaks_is_reported_once_and_the_others_go_on():
    class Broken:
        calls = 0

        def log_metrics(self, metrics, step):
            self.calls += 1
            raise ConnectionError("server gone")

    class Working(Broken):
        def log_metrics(self, metrics, step):
            self.calls += 1

    broken, working, lines = Broken(), Working(), []
    logger = SafeLoggers({"broken": broken, "working": working}, report=lines.append)
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step)
    assert (broken.calls, working.calls) == (1, 3)
    assert len(lines) == 1
    assert "'broken' failed" in lines[0]
    assert "server gone" in lines[0]


def test_an_interrupt_is_not_swallowed():
    class Interrupted:
        def close(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SafeLoggers({"x": Interrupted()}, report=print).close()


def test_an_unknown_logger_is_refused_before_the_run(tmp_path):
    assert loggers.names() == ["jsonl", "mlflow"]
    with pytest.raises(ConfigError, match="unknown logger 'mlfow'"):
        build_loggers(["mlfow"], tmp_path)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"jsonl": {"folder": "x"}}, "logger 'jsonl': got an unexpected keyword argument 'folder'"),
        ({"mlflow": {"uri": "x"}}, "logger 'mlflow': got an unexpected keyword argument 'uri'"),
        ({"jsonl": {}, "mlflow": {}}, "is not one logger"),
    ],
)
def test_options_that_no_logger_has_are_refused_before_the_run(tmp_path, entry, said):
    with pytest.raises(ConfigError, match=said):
        check_loggers([entry])
    with pytest.raises(ConfigError, match=said):
        build_loggers([entry], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")
def test_mlflow_logger_fills_a_real_sqlite_store_and_resumes_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    database = tmp_path / "mlflow.db"
    config = [{"mlflow": {"tracking_uri": f"sqlite:///{database}", "experiment": "e"}}]
    lines = []
    (tmp_path / "note.txt").write_text("hello")
    for step in (1, 2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logger = build_loggers(config, tmp_path / "run", report=lines.append)
            logger.log_params({"training": {"learning_rate": 1e-4}, "seed": 3})
            logger.log_metrics({"loss": 1.0 / step}, step)
            logger.log_artifact(tmp_path / "note.txt")
            logger.close()
    assert lines == []
    connection = sqlite3.connect(database)
    params = connection.execute("SELECT key, value FROM params ORDER BY key").fetchall()
    assert params == [
        ("seed", "3"),
        ("training.learning_rate", "0.0001"),
    ]
    assert connection.execute("SELECT step, value FROM metrics ORDER BY step").fetchall() == [(1, 1.0), (2, 0.5)]
    assert connection.execute("SELECT count(*), min(status) FROM runs").fetchone() == (1, "FINISHED")
    connection.close()
    assert [path.read_text() for path in (tmp_path / "mlflow_artifacts").rglob("note.txt")] == ["hello"]
