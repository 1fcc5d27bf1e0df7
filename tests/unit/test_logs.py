import io
import json
import logging
import warnings

import pytest

from pipeline.logs import log_to


@pytest.fixture
def lines():
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    log_to(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def test_our_records_carry_the_allowed_fields_and_no_others(lines):
    logging.getLogger("pipeline.intake").info("taken in", extra={"case_id": "c1", "patient_name": "JANE"})

    assert lines()[0]["case_id"] == "c1"
    assert "JANE" not in json.dumps(lines())


def test_what_a_library_says_is_reduced_to_who_said_it_because_it_may_echo_a_name(lines):
    logging.getLogger("pydicom").warning("Invalid value for VR UI: 'MRN-7'")

    assert lines()[0] == {"at": lines()[0]["at"], "level": "warning", "logger": "pydicom"}


def test_a_warning_raised_by_a_library_leaves_no_value_in_the_log(lines):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("value 'JANE^DOE' is not valid", UserWarning, stacklevel=1)

    assert "JANE" not in json.dumps(lines())
    assert lines()[0]["logger"] == "py.warnings"


def test_a_traceback_is_reduced_to_the_type_of_the_exception(lines):
    try:
        raise ValueError("JANE")
    except ValueError:
        logging.getLogger("pipeline.triage").exception("failed")

    assert lines()[0]["error"] == "ValueError"
    assert "JANE" not in json.dumps(lines())


def test_chatter_of_libraries_below_warning_is_dropped(lines):
    logging.getLogger("sqlalchemy.engine").info("SELECT secret")

    assert lines() == []
