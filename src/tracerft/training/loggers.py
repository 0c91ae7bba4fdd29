"""Trackers that follow what a run logs: TensorBoard, Weights & Biases, MLflow, trackio.

A follower reads finished numbers and gives nothing back; one that fails is left behind with a warning, the run goes on.
"""

import importlib
import json
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from tracerft.errors import ArgumentError, MissingExtraError, one_of

IDS = "loggers.json"  # in the run's folder: the name a tracker gave the run, to go on with it


class Logger(Protocol):
    """What a tracker is told; any of it may raise."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Values of one step, as in ``metrics.jsonl``."""

    def results(self, values: Mapping[str, float]) -> None:
        """The finished run's metrics, ``model/split/metric``."""

    def close(self) -> None:
        """Nothing follows."""


class TensorBoard:
    """Event files in ``tensorboard/`` of the run's folder; steps from ``start`` on are purged from older ones."""

    def __init__(self, folder: Path, config: Mapping[str, Any], start: int) -> None:
        module = importlib.import_module("torch.utils.tensorboard")
        self._writer = module.SummaryWriter(str(folder / "tensorboard"), purge_step=start)
        self._writer.add_text("config", "\n".join(f"    {k}: {v}" for k, v in config.items()), start)
        self._last = start

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar a value."""
        self._last = step
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def results(self, values: Mapping[str, float]) -> None:
        """Scalars at the last step."""
        self.write(self._last, {f"results/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Write what is queued."""
        self._writer.close()


class Wandb:
    """A run of project ``tracerft``; a resumed one keeps its id, and W&B itself refuses steps that it has."""

    def __init__(self, folder: Path, config: Mapping[str, Any], start: int) -> None:
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            project="tracerft",
            name=folder.name,
            dir=str(folder),
            id=_id(folder, "wandb"),
            resume="allow",
            config=dict(config),
        )
        _keep_id(folder, "wandb", self._run.id)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line of the history."""
        self._run.log(dict(values), step=step)

    def results(self, values: Mapping[str, float]) -> None:
        """Into the summary."""
        self._run.summary.update(dict(values))

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class MLflow:
    """A run of experiment ``tracerft`` where MLflow's own settings say; a resumed one skips steps that it has."""

    def __init__(self, folder: Path, config: Mapping[str, Any], start: int) -> None:
        self._mlflow = mlflow = importlib.import_module("mlflow")
        mlflow.set_experiment("tracerft")
        known = _id(folder, "mlflow")
        run = mlflow.start_run(run_id=known) if known else mlflow.start_run(run_name=folder.name)
        _keep_id(folder, "mlflow", run.info.run_id)
        history = mlflow.MlflowClient().get_metric_history(known, "loss") if known else []
        self._seen = max((point.step for point in history), default=-1)
        if not known:
            mlflow.log_params({name: str(value) for name, value in config.items()})

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """All values of a step in one call; MLflow appends, so a step it has is not sent again."""
        if step > self._seen:
            self._mlflow.log_metrics(dict(values), step=step)

    def results(self, values: Mapping[str, float]) -> None:
        """Metrics without a step."""
        self._mlflow.log_metrics({f"results/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


class Trackio:
    """A run of project ``tracerft``; resumed by name. It cannot take back steps that are taken again."""

    def __init__(self, folder: Path, config: Mapping[str, Any], start: int) -> None:
        trackio = importlib.import_module("trackio")
        self._run = trackio.init(project="tracerft", name=folder.name, resume="allow", config=dict(config))
        self._last = start

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line of the history."""
        self._last = step
        self._run.log(dict(values), step=step)

    def results(self, values: Mapping[str, float]) -> None:
        """At the last step."""
        self.write(self._last, {f"results/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Send what is queued."""
        self._run.finish()


Open = Callable[[Path, Mapping[str, Any], int], Logger]
LOGGERS: dict[str, Open] = {"tensorboard": TensorBoard, "wandb": Wandb, "mlflow": MLflow, "trackio": Trackio}


def logger_names(log: str | None) -> list[str]:
    """Names in a list with commas, each known and installed.

    Raises:
        ArgumentError: for an unknown or repeated name.
        MissingExtraError: for a package that is not installed.
    """
    names = [] if log is None else [name.strip() for name in log.split(",")]
    for name in names:
        one_of("log", name, tuple(LOGGERS))
        if names.count(name) > 1:
            raise ArgumentError(f"`log` must name each tracker once; got {log!r}; leave the second {name} out")
        if find_spec(name) is None:
            raise MissingExtraError(f"`log` {name} needs the package {name}, not installed; pip install {name}")
    return names


class Followers:
    """All trackers of a run; one that raises is dropped with a warning.

    Args:
        log: names with commas, or ``None``.
        folder: of the run.
        config: what the run was told, laid flat.
        start: first step that is going to be logged.
    """

    def __init__(self, log: str | None, folder: Path, config: Mapping[str, Any], start: int) -> None:
        self._loggers: dict[str, Logger] = {}
        for name in logger_names(log):
            self._guarded(name, partial(self._open, name, folder, config, start))

    def _open(self, name: str, folder: Path, config: Mapping[str, Any], start: int) -> None:
        self._loggers[name] = LOGGERS[name](folder, config, start)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """What the run wrote to ``metrics.jsonl``."""
        self._all(lambda logger: logger.write(step, values))

    def results(self, results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """The numbers of ``record.json``'s results."""
        flat = {
            f"{model}/{split}/{metric}": value
            for model, splits in results.items()
            for split, metrics in splits.items()
            for metric, value in metrics.items()
            if isinstance(value, (int, float))
        }
        self._all(lambda logger: logger.results(flat))

    def close(self) -> None:
        """Close all."""
        self._all(lambda logger: logger.close())

    def _all(self, tell: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            self._guarded(name, partial(tell, logger))

    def _guarded(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # a tracker's trouble, whatever it is, is not the run's
            self._loggers.pop(name, None)
            warnings.warn(f"logger {name} failed and is left out: {error}; the run goes on", UserWarning, stacklevel=3)


def _ids(folder: Path) -> dict[str, str]:
    path = folder / IDS
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _id(folder: Path, name: str) -> str | None:
    return _ids(folder).get(name)


def _keep_id(folder: Path, name: str, value: str) -> None:
    (folder / IDS).write_text(json.dumps(_ids(folder) | {name: value}))
