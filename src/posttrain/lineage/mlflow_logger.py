"""The MLflow logger (extra ``mlflow``, imported only when a run asks for it)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.config.files import write_text
from posttrain.errors import ConfigError

NOT_INSTALLED, HOW_TO_INSTALL = "logger 'mlflow': MLflow is not installed", "pip install 'posttrain[mlflow]'"
MAX_PARAM_CHARACTERS = 6000  # what MLflow stores of one parameter


class MlflowLogger:
    """Logs to an MLflow tracking store. A resumed run goes on in the MLflow run noted in ``<run folder>/mlflow_run_id``."""

    def __init__(self, run_dir: Path, *, tracking_uri: str = "", experiment: str = "posttrain", run_name: str = "") -> None:
        """``tracking_uri`` defaults to an SQLite file beside the run's folder. Raises ConfigError when the extra is not installed."""
        try:
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise ConfigError(NOT_INSTALLED, hint=HOW_TO_INSTALL) from None
        run_dir.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=tracking_uri or f"sqlite:///{(run_dir.parent / 'mlflow.db').resolve()}")
        note = run_dir / "mlflow_run_id"
        if note.exists():
            self._run_id = note.read_text(encoding="utf-8").strip()
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            found = self._client.get_experiment_by_name(experiment)
            location = (run_dir.parent / "mlflow_artifacts").resolve().as_uri()
            experiment_id = found.experiment_id if found else self._client.create_experiment(experiment, artifact_location=location)
            self._run_id = self._client.create_run(experiment_id, run_name=run_name or run_dir.name).info.run_id
            write_text(note, self._run_id)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nested settings under dotted names; a value already recorded in a run that is resumed stays."""
        recorded = self._client.get_run(self._run_id).data.params
        for name, value in _dotted(params):
            if name not in recorded:
                self._client.log_param(self._run_id, name, str(value)[:MAX_PARAM_CHARACTERS])

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """One point of each curve."""
        for name, value in metrics.items():
            self._client.log_metric(self._run_id, name, float(value), step=step)

    def log_artifact(self, path: str | Path) -> None:
        """Upload a file or a folder."""
        upload = self._client.log_artifacts if Path(path).is_dir() else self._client.log_artifact
        upload(self._run_id, str(path))

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run_id)


def _dotted(params: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in params.items():
        name = f"{prefix}{key}"
        pairs += _dotted(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return pairs
