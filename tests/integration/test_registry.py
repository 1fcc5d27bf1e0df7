from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from models.registry import Registry, model_name
from models.release import Release, ReleaseBody, write_release
from models.training_record import EpochRecord
from pipeline.domain.certificate import certify
from pipeline.domain.novelty import NoveltyReference
from pipeline.errors import HaltPipeline, RetryLater
from tests.slice_protocol import slice_protocol

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
PROTOCOL = slice_protocol()
MODEL = "secondread-brain-tumour-slice"


def make_release(folder: Path, seed: int = 0) -> Release:
    generator = torch.Generator().manual_seed(seed)
    features = np.random.default_rng(0).normal(size=(20, 3))
    body = ReleaseBody(
        protocol=PROTOCOL,
        members=tuple(save({"w": torch.randn(3, generator=generator)}) for _ in range(3)),
        novelty=NoveltyReference.fit({"histogram": features[:10]}, {"histogram": features[10:]}),
        temperature=0.75,
        mutual_information_limit=0.125,
        data={"train": "aa", "tune": "bb", "certify": "cc"},
    )
    certificates = {
        side: certify(
            [0.1, 0.9],
            [False, True],
            [0.2, 0.8],
            [False, True],
            ["a", "b"],
            tune_patients=["c", "d"],
            alpha=0.05,
            delta=0.05,
            side=side,
            made_on=NOW.date(),
            expires_on=date(2027, 11, 23),
            dependencies=body.dependencies,
        )
        for side in ("routine", "priority")
    }
    return write_release(folder, body, certificates, created_at=NOW)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store whose tables exist; each test copies it."""
    folder = tmp_path_factory.mktemp("store")
    Registry(f"sqlite:///{folder / 'mlflow.db'}", folder / "cache").list()
    return folder / "mlflow.db"


@pytest.fixture
def registry(tmp_path: Path, store: Path) -> Registry:
    (tmp_path / "mlflow.db").write_bytes(store.read_bytes())
    return Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "cache")


def test_a_registered_release_comes_back_verified_as_the_challenger(registry: Registry, tmp_path: Path) -> None:
    release = make_release(tmp_path / "r")
    version = registry.register(release)
    found = registry.resolve(MODEL, "challenger")
    assert (found.version, found.digest, found.protocol_digest) == (version, release.digest, PROTOCOL.digest)
    assert found.aliases == ("challenger",)
    loaded = registry.download(MODEL, "challenger")
    assert loaded.digest == release.digest
    assert loaded.folder == tmp_path / "cache" / release.digest
    assert torch.equal(loaded.weights(2)["w"], release.weights(2)["w"])


def test_versions_count_up_and_the_newest_is_the_challenger(registry: Registry, tmp_path: Path) -> None:
    first = registry.register(make_release(tmp_path / "one", seed=1))
    second = registry.register(make_release(tmp_path / "two", seed=2))
    assert (first, second) == ("1", "2")
    assert [(r.version, r.aliases) for r in registry.list(MODEL)] == [("2", ("challenger",)), ("1", ())]
    assert registry.list() == registry.list(MODEL)


def test_an_alias_moves_and_can_be_taken_away(registry: Registry, tmp_path: Path) -> None:
    first = registry.register(make_release(tmp_path / "one", seed=1))
    second = registry.register(make_release(tmp_path / "two", seed=2))
    registry.set_alias(MODEL, "champion", first)
    assert registry.resolve(MODEL, "champion").version == first
    registry.set_alias(MODEL, "champion", second)
    assert registry.resolve(MODEL, "champion").version == second
    registry.delete_alias(MODEL, "champion")
    with pytest.raises(HaltPipeline, match="no version or alias 'champion'"):
        registry.resolve(MODEL, "champion")
    registry.delete_alias(MODEL, "champion")


def test_only_the_three_aliases_exist(registry: Registry, tmp_path: Path) -> None:
    version = registry.register(make_release(tmp_path / "r"))
    with pytest.raises(HaltPipeline, match="no alias 'latest': use one of champion, challenger, shadow"):
        registry.set_alias(MODEL, "latest", version)
    with pytest.raises(HaltPipeline, match="no version or alias '9'"):
        registry.set_alias(MODEL, "champion", "9")


def test_an_unknown_model_is_a_sentence_with_a_cure(registry: Registry) -> None:
    with pytest.raises(HaltPipeline, match="no version or alias 'champion'; see `secondread models list`"):
        registry.download("secondread-nothing", "champion")


def test_bytes_changed_in_the_store_are_refused_and_not_kept(registry: Registry, tmp_path: Path) -> None:
    registry.register(make_release(tmp_path / "r"))
    (stored,) = (tmp_path / "mlflow-artifacts").rglob("members/01.safetensors")
    stored.write_bytes(save({"w": torch.zeros(3)}))
    with pytest.raises(HaltPipeline, match="was changed after it was written"):
        registry.download(MODEL, "challenger")
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_release_put_in_its_place_is_refused(registry: Registry, tmp_path: Path) -> None:
    registry.register(make_release(tmp_path / "r"))
    other = make_release(tmp_path / "other", seed=5)
    (stored,) = (tmp_path / "mlflow-artifacts").rglob("manifest.json")
    for path in other.folder.rglob("*.*"):
        (stored.parent / path.relative_to(other.folder)).write_bytes(path.read_bytes())
    with pytest.raises(HaltPipeline, match="as registered"):
        registry.download(MODEL, "challenger")


def test_a_damaged_copy_in_the_cache_is_fetched_again(registry: Registry, tmp_path: Path) -> None:
    release = make_release(tmp_path / "r")
    registry.register(release)
    kept = registry.download(MODEL, "challenger").folder
    (kept / "members/00.safetensors").write_bytes(b"damaged")
    assert registry.download(MODEL, "challenger").digest == release.digest


def test_a_damaged_release_is_not_registered(registry: Registry, tmp_path: Path) -> None:
    release = make_release(tmp_path / "r")
    (release.folder / "weights.pt").write_bytes(b"x")
    with pytest.raises(HaltPipeline, match="JSON and safetensors only"):
        registry.register(release)
    assert registry.list() == ()


def test_a_training_run_holds_parameters_epochs_digests_and_plots(registry: Registry, tmp_path: Path) -> None:
    history = [
        EpochRecord(epoch=i, train_nll=1.0 - 0.1 * i, tune_nll=1.1 - 0.1 * i, tune_accuracy=0.5, seconds=2.0)
        for i in range(3)
    ]
    plot = tmp_path / "referral.png"
    plot.write_bytes(b"png")
    run_id = registry.log_training(
        PROTOCOL, [history, history], metrics={"tune_nll": 0.9}, data={"train": "ab" * 32}, plots=[plot]
    )
    client = registry._client
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["network.passes"] == "20"
    assert run.data.params["training.learning_rate"] == str(PROTOCOL.training.learning_rate)
    assert run.data.tags["data.train"] == "ab" * 32
    assert run.data.tags["protocol_digest"] == PROTOCOL.digest
    assert run.data.metrics["tune_nll"] == 0.9
    told = client.get_metric_history(run_id, "member01.tune_nll")
    assert [(m.step, m.value) for m in told] == [(0, 1.1), (1, 1.0), (2, pytest.approx(0.9))]
    assert sorted(a.path for a in client.list_artifacts(run_id, "plots")) == [
        "plots/learning_curves.png",
        "plots/referral.png",
    ]


def test_the_release_stands_in_the_run_that_trained_it(registry: Registry, tmp_path: Path) -> None:
    run_id = registry.log_training(PROTOCOL, [], metrics={}, data={})
    registry.register(make_release(tmp_path / "r"), run_id=run_id)
    assert registry.resolve(MODEL, "challenger").run_id == run_id


def test_no_parameter_or_tag_holds_a_path_or_a_user(registry: Registry, tmp_path: Path) -> None:
    run_id = registry.log_training(PROTOCOL, [], metrics={}, data={"train": "ab"})
    registry.register(make_release(tmp_path / "r"), run_id=run_id)
    run = registry._client.get_run(run_id)
    written = " ".join([*run.data.params.values(), *run.data.tags.values()])
    assert str(tmp_path) not in written
    assert "/" not in written
    assert not {name for name in run.data.tags if name.startswith(("mlflow.user", "mlflow.source"))}


def test_the_artefacts_stay_beside_the_cache(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    registry.register(make_release(tmp_path / "r"))
    registry.download(MODEL, "challenger")
    assert list(elsewhere.iterdir()) == []
    assert len(list((tmp_path / "mlflow-artifacts").rglob("manifest.json"))) == 1


def test_nothing_is_sent_anywhere(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _self, address: asked.append(address))
    registry.register(make_release(tmp_path / "r"))
    registry.download(MODEL, "challenger")
    assert asked == []
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert os.environ["MLFLOW_ALLOW_MODEL_CODE_EXECUTION"] == "false"


def test_a_version_without_a_digest_is_refused(registry: Registry, tmp_path: Path) -> None:
    version = registry.register(make_release(tmp_path / "r"))
    registry._client.set_model_version_tag(MODEL, version, "release_digest", "../../outside")
    with pytest.raises(HaltPipeline, match="names no release digest"):
        registry.download(MODEL, version)


def test_a_store_that_is_no_database_says_what_to_check(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is not a database" * 100)
    broken = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "cache")
    with pytest.raises((HaltPipeline, RetryLater), match="SECONDREAD_MLFLOW_URI"):
        broken.list()


def test_importing_the_registry_loads_neither_mlflow_nor_torch() -> None:
    code = "import sys, models.registry; print('mlflow' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_model_is_named_after_its_protocol() -> None:
    assert model_name(PROTOCOL) == MODEL
