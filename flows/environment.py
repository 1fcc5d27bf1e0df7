"""What Prefect and MLflow read from the environment, set before either is imported.

Why here: both send usage statistics, write to the user's home and log loudly unless told otherwise, and both read their
variables at import. What the user set himself stays, but telemetry is off in every case.
"""

from __future__ import annotations

import os
from pathlib import Path

_ALWAYS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_UNLESS_SET = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # our own log carries what matters, without values from exceptions
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # the default is pickle
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_UI_ENABLED": "true",
    "PREFECT_WORKER_QUERY_SECONDS": "5",
    "PREFECT_CLI_PROMPT": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def prepare_environment(home: Path) -> None:
    """Set the variables of Prefect and MLflow for this process and its children; Prefect's files go under `home`."""
    os.environ.update(_ALWAYS)
    for name, value in _UNLESS_SET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(home.absolute() / "prefect"))


def prefect_place(home: Path) -> str:
    """Where the flow runs are kept: the server's address, or the folder of the embedded one."""
    return os.environ.get("PREFECT_API_URL") or os.environ.get("PREFECT_HOME") or str(home / "prefect")
