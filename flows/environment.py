"""What Prefect, MLflow and torch read from the environment, set before any of them is imported.

Why here: the first two send usage statistics, write to the user's home and log loudly unless told otherwise, and all
read their variables at import. What the user set himself stays, but telemetry is off in every case.
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
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads cost a factor of thirty where other processes share the cores
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # our own log carries what matters, without values from exceptions
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # the default is pickle
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_UI_ENABLED": "true",
    "PREFECT_WORKER_QUERY_SECONDS": "5",
    "PREFECT_CLI_PROMPT": "false",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def prepare_environment(home: Path) -> None:
    """Set the variables for this process and its children; Prefect's files go under `home`."""
    os.environ.update(_ALWAYS)
    for name, value in _UNLESS_SET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(home.absolute() / "prefect"))
