"""What a notebook's cell shows of our objects: short, readable, no addresses, no arrays."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from esnac_lib.architecture.graph import INPUT, Architecture, Layer, slot
from esnac_lib.config.study import StudyConfig
from esnac_lib.ledger.ledger import Ledger
from esnac_lib.ledger.schema import ProposalRow
from esnac_lib.study.study import Study
from esnac_lib.training.teacher import TrainedTeacher, traced_teacher


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESNAC_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        return Study(StudyConfig())


def objects(study: Study) -> dict[str, Any]:
    decisions = study.space.sample(np.random.default_rng(0))
    architecture = study.space.apply(decisions)
    return {
        "study": study,
        "data": study.data,
        "dataset": study.data.dataset,
        "space": study.space,
        "decisions": decisions,
        "architecture": architecture,
        "teacher": TrainedTeacher("search", *traced_teacher(study.config, study.data.dataset), 0.9512, ()),
    }


def test_objects_are_told_in_a_line(study: Study) -> None:
    for name, value in objects(study).items():
        text = repr(value)
        assert len(text) < 300 and "\n" not in text, name
        assert "array(" not in text and "tensor(" not in text and not re.search(r"at 0x[0-9a-f]+", text), name


def test_what_is_said(study: Study) -> None:
    found = {name: repr(value) for name, value in objects(study).items()}
    assert found["dataset"] == "Dataset('digits': 1,297 training and 500 test images, 8×8×1, 10 classes)"
    assert "1,100 to train on, 1,100 of them in the search, 197 to validate, on " in found["data"]
    assert found["teacher"].startswith("TrainedTeacher(search, accuracy 95.12%: Architecture(17 layers, 65,834 param")
    assert found["study"] == "Study('digits': esnac compresses cnn4 on digits, 0 of 16 evaluated)"


def test_a_study_tells_its_best(study: Study) -> None:
    row = ProposalRow(None, "a", 10, 20, "{}", "{}", None, None, None, 0.1)
    with Ledger.start(study.ledger_path, study.config.to_dict()) as ledger:
        ledger.record(0, [row, row, row])
        ledger.complete(0, 0.5, 0.25, 1, 1.0)
        ledger.complete(1, 0.5, 0.75, 1, 1.0)
    assert repr(study).endswith("2 of 16 evaluated, best f 0.7500)")
    assert repr(Ledger(study.ledger_path)) == f"Ledger({str(study.ledger_path)!r}: 2 of 3 recorded trials observed)"
    study.ledger_path.unlink()


def test_an_architecture_is_a_table() -> None:
    conv = Layer("<b>", "conv", (slot(INPUT),), channels=2000, attrs={"kernel_size": 1})
    layers = (conv, Layer("flat", "flatten", (slot(0),)), Layer("fc", "linear", (slot(1),), channels=10))
    architecture = Architecture(layers, (1, 1, 1), slot(2))
    html = architecture._repr_html_()
    root = ElementTree.fromstring(f"<p>{html}</p>")
    assert (root.text or "") == repr(architecture)
    rows = [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]
    assert rows[0] == list(architecture.table()[0])
    assert [row[0] for row in rows[1:]] == ["<b>", "flat", "fc"]
    assert rows[1][4] == "4,000" and "<b>" not in html
