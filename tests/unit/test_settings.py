import pytest

from pipeline import settings
from pipeline.errors import HaltPipeline
from pipeline.settings import read_settings


def test_database_and_mlflow_lie_in_the_home_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv("SECONDREAD_HOME", str(tmp_path))

    chosen = read_settings()

    assert chosen.database == f"sqlite:///{tmp_path}/secondread.db"
    assert chosen.mlflow == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_wrong_value_names_the_variable_and_the_cure(monkeypatch):
    monkeypatch.setenv("SECONDREAD_CHUNK_SIZE", "many")

    with pytest.raises(HaltPipeline, match=r"SECONDREAD_CHUNK_SIZE: .*correct or unset"):
        read_settings()


def test_a_secret_file_is_read_as_its_setting(monkeypatch, tmp_path):
    (tmp_path / "secondread_database_url").write_text("postgresql+psycopg://u:p@db/secondread")
    monkeypatch.setattr(settings, "SECRETS", tmp_path)

    assert read_settings().database == "postgresql+psycopg://u:p@db/secondread"


def test_several_protocols_are_separated_by_commas(monkeypatch):
    monkeypatch.setenv("SECONDREAD_PROTOCOLS", "brain-tumour-mr, mine.yaml,")

    assert read_settings().protocol_names == ("brain-tumour-mr", "mine.yaml")
