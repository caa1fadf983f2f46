"""Both papers' studies run in a session: what ends a run early is one line, and what was recorded is kept."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from study.helpers import Listening

from esnac_lib.config.latent_descent import CompressionConfig
from esnac_lib.config.study import StudyConfig
from esnac_lib.errors import ConfigError, EsnacError, Interrupted, LedgerError, StorageError
from esnac_lib.latent_descent.study import CompressionStudy
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.study.session import Session
from esnac_lib.study.study import Study
from esnac_lib.training import evaluator as evaluator_module
from esnac_lib.training.callbacks import EpochResult

Make = Callable[..., Study | CompressionStudy]


def search(**changes: Any) -> Study:
    values: dict[str, Any] = {"study": "tiny", "sampler": "random", "K": 2, "steps": 2, "epochs": 1, "final": "none",
                              "teacher_epochs": 1, "search_images": 200, "device": "cpu"}  # fmt: skip
    return Study(StudyConfig(**values | changes), Listening())


def latent_descent(**changes: Any) -> CompressionStudy:
    values: dict[str, Any] = {"study": "tiny", "architectures": 8, "search_images": 200, "K": 4, "max_length": 32,
                              "stop_after": "architectures", "device": "cpu"}  # fmt: skip
    return CompressionStudy(CompressionConfig(**values | changes), Listening())


BOTH = pytest.mark.parametrize("make", [search, latent_descent])


def end_training_with(error: BaseException, patch: pytest.MonkeyPatch) -> None:
    """Let the second step's training raise an error."""
    real, calls = evaluator_module.LocalEvaluator.evaluate, []

    def evaluate(self: Any, *given: Any) -> Any:
        calls.append(given)
        if len(calls) > 1:
            raise error
        return real(self, *given)

    patch.setattr(evaluator_module.LocalEvaluator, "evaluate", evaluate)


@BOTH
@pytest.mark.parametrize(
    ("error", "told", "line"),
    [
        (KeyboardInterrupt(), Interrupted, r"all that was recorded is kept; the same command goes on from here"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            StorageError,
            r"the study cannot .*No space left[^\n]*there",
        ),
    ],
    ids=["Ctrl-C", "full disk"],
)
def test_what_ends_a_study_is_one_line_and_what_was_recorded_is_kept(
    make: Make, error: BaseException, told: type[BaseException], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make()
    with monkeypatch.context() as patch, pytest.raises(told, match=rf"\A{line}\Z") as caught:
        end_training_with(error, patch)
        study.run()
    assert caught.value.__suppress_context__ and hasattr(caught.value, "_render_traceback_")
    trials = Ledger(study.ledger_path, read_only=True).trials()
    finished = trials[trials["told_at"].notna()]
    assert 0 < len(finished) < len(trials)
    assert make().run()  # the lock is free, and the same command goes on
    after = Ledger(study.ledger_path, read_only=True).trials()
    assert after["told_at"].notna().all() and len(after) >= len(trials)
    assert finished["f"].tolist() == after["f"][: len(finished)].tolist()


@BOTH
def test_a_folder_that_cannot_be_written_is_one_line_too(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is trained: while the session opens."""

    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    study = make()
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left"):
        patch.setattr("esnac_lib.study.session.write_atomically", full)
        study.run()
    with Ledger.start(study.ledger_path, study.config.to_dict()):
        pass  # it was closed


@BOTH
def test_a_time_limit_is_no_error_and_says_what_it_is(make: Make) -> None:
    study = make(max_minutes=1e-6)
    assert not study.run()
    assert isinstance(study.progress, Listening)
    said = study.progress.said[-1]
    assert said.startswith("the time limit of 1e-06 min is over: it was too short for even one evaluated student")
    assert said.endswith("; the same command goes on from here, with max_minutes anew") and "asked" not in said


@BOTH
def test_another_process_and_another_config_are_refused(make: Make) -> None:
    study = make()
    with Ledger.start(study.ledger_path, study.config.to_dict()), pytest.raises(LedgerError):
        study.run()
    with pytest.raises(ConfigError, match="seed: stored 0, given 1"):
        make(seed=1)


def test_what_a_session_writes_and_asks(tmp_path: Path) -> None:
    config = StudyConfig(device="cpu")
    with Session(config, tmp_path, "cpu", Listening()) as session:
        session.callbacks("search").on_epoch("trial0000", EpochResult(1, 0.5, 0.25, 2.0))
        assert not session.ending.must_stop()
        session.ledger.request_stop()
        assert session.callbacks("search").should_stop()
        session.check_stop()
        pytest.fail("it went on")
    assert isinstance(session.progress, Listening)
    assert session.progress.said == ["stopped as asked; the same command goes on from here"]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == config.to_dict()
    assert (tmp_path / "environment.json").exists()
    assert len(Ledger(tmp_path / "ledger.sqlite", read_only=True).epochs("search")) == 1
    with Session(config, tmp_path, "cpu", Listening()) as session:  # an old request does not stop a new run
        assert not session.ending.must_stop()


def test_errors_of_our_own_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(EsnacError, match="as it is"), Session(StudyConfig(), tmp_path, "cpu", Listening()):
        raise EsnacError("as it is")
