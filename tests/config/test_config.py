"""The parameters of a study: what is refused, and in which words."""

from __future__ import annotations

import copy
import math
import pickle
import string
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from esnac_lib.config import paths
from esnac_lib.config.base import check_resume
from esnac_lib.config.paper import AblationsConfig, N2nConfig
from esnac_lib.config.paths import data_root_of, outputs_root, study_dir
from esnac_lib.config.registry import nearest, registry
from esnac_lib.config.study import PRESETS, RESULT_FREE, StudyConfig
from esnac_lib.config.user_model import CompressConfig
from esnac_lib.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
FIELDS = list(StudyConfig.model_fields)


def refusal(**values: Any) -> str:
    """The line that these values are refused with."""
    with pytest.raises(ConfigError) as caught:
        StudyConfig(**values)
    line = str(caught.value)
    assert "\n" not in line
    assert "validation error" not in line
    assert "pydantic" not in line
    return line


def test_defaults_are_valid_and_smoke_sized() -> None:
    config = StudyConfig()
    assert (config.teacher, config.dataset, config.K, config.steps) == ("cnn4", "digits", 4, 4)
    assert config.num_evaluations == 16
    assert config.operator_names == ("remove", "shrink", "skip")
    assert all(field.description for field in StudyConfig.model_fields.values())
    assert all(len(field.description or "") < 80 for field in StudyConfig.model_fields.values())


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"k": 8},
            "unknown parameter 'k' (= 8): the nearest known one is 'K'; print(StudyConfig().describe()) lists all",
        ),
        ({"final_epoch": 3}, "unknown parameter 'final_epoch' (= 3): the nearest known one is 'final_epochs'; print("),
        ({"K": 0}, "K = 0 is out of range: an integer of at least 1 is allowed"),
        ({"K": True}, "K = True is of the wrong type (bool): an integer of at least 1 is allowed"),
        ({"K": 8.0}, "K = 8.0 is of the wrong type (float): an integer of at least 1 is allowed; write 8"),
        ({"K": 8.5}, "K = 8.5 is of the wrong type (float): an integer of at least 1 is allowed"),
        ({"K": "8"}, "K = '8' is of the wrong type (str): an integer of at least 1 is allowed; write 8"),
        ({"K": None}, "K = None is of the wrong type (NoneType): an integer of at least 1 is allowed"),
        ({"seed": -1}, "seed = -1 is out of range: an integer of at least 0 is allowed"),
        ({"batch_size": 1}, "batch_size = 1 is out of range: an integer of at least 2 is allowed"),
        ({"teacher": "resnet99"}, "teacher = 'resnet99' is unknown: allowed are vgg19, resnet18, "),
        ({"dataset": "cifar-10"}, "dataset = 'cifar-10' is unknown: allowed are digits, fashion_mnist, "),
        (
            {"sampler": "Esnak"},
            "sampler = 'Esnak' is unknown: allowed are narrow, random, evolution, tpe, tpe_multivariate, n2n, "
            "esnac, transfer; did you mean 'esnac'?",
        ),
        (
            {"sampler": 3},
            "sampler = 3 is of the wrong type (int): one of narrow, random, evolution, tpe, tpe_multivariate, n2n, "
            "esnac, transfer is allowed",
        ),
        ({"device": "cuda:x"}, "device = 'cuda:x' is unknown: allowed are auto, cpu, cuda, cuda:N; did you mean"),
        ({"device": "cuda:0\n"}, "device = 'cuda:0\\n' is unknown"),
        ({"teacher_lr": 0}, "teacher_lr = 0 is out of range: a number above 0 is allowed"),
        ({"teacher_lr": math.nan}, "teacher_lr = nan is out of range: a number above 0 is allowed"),
        ({"final_lr": math.inf}, "final_lr = inf is out of range: a number above 0 is allowed"),
        ({"final_lr": True}, "final_lr = True is of the wrong type (bool): a number above 0 is allowed"),
        (
            {"final_lr": "1e-3"},
            "final_lr = '1e-3' is of the wrong type (str): a number above 0 is allowed; write 0.001",
        ),
        (
            {"label_smoothing": 1.0},
            "label_smoothing = 1.0 is out of range: a number of at least 0 and below 1 is allowed",
        ),
        ({"max_minutes": -0.5}, "max_minutes = -0.5 is out of range: a number of at least 0 is allowed"),
        ({"augment": "true"}, "augment = 'true' is of the wrong type (str): True or False is allowed; write True"),
        ({"augment": 0}, "augment = 0 is of the wrong type (int): True or False is allowed; write False"),
        (
            {"study": 8},
            "study = 8 is of the wrong type (int): a text is allowed; write '8' (for papermill: -r study 8)",
        ),
        ({"operators": ""}, "operators = '' is empty: at least one of remove, shrink, skip is needed"),
        (
            {"operators": "remove,skrink"},
            "operators = 'remove,skrink': 'skrink' is unknown: allowed are remove, shrink, ",
        ),
        ({"operators": ["remove"]}, "operators = ['remove'] is of the wrong type (list): a text is allowed"),
        (
            {"first": "narrowed", "sampler": "random"},
            "first = 'narrowed' with sampler = 'random' and operators = 'remove,shrink,skip': "
            "it is for sampler = 'esnac' or 'evolution' with shrink, else 'random'",
        ),
        (
            {"acquisition": "local", "sampler": "transfer", "source": "digits"},
            "acquisition = 'local' with sampler = 'transfer': it has no observed students to stay near to; "
            "'random' and 'evolution' are allowed",
        ),
        (
            {"surrogate": "accuracy", "sampler": "tpe"},
            "surrogate = 'accuracy' with sampler = 'tpe': it is for sampler = 'esnac', else 'f'",
        ),
        ({"sampler": "n2n", "max_params": 9}, "max_params = 9: sampler = 'n2n' keeps no limits; leave it 0"),
        ({"top": 17}, "top = 17 is out of range: at most K * steps = 16 students are there to choose from"),
        (
            {"final_epochs": 0},
            "final_epochs = 0 is out of range: an integer of at least 1 is allowed, or final = 'none'",
        ),
        (
            {"K": 0, "steps": 0, "foo": 1},
            "3 mistakes: (1) K = 0 is out of range: an integer of at least 1 is allowed; (2) steps = 0 is out of "
            "range: an integer of at least 1 is allowed; (3) unknown parameter 'foo' (= 1): the nearest known one is",
        ),
        (
            {"max_params": 9, "max_macs": 9, "operators": "remove", "teacher_options": "{}", "top": 99},
            "4 mistakes: (1) teacher_options is for a teacher of your own ('module:callable'), not for 'cnn4'; "
            "(2) max_params is kept by shrinking: operators = 'remove' lacks 'shrink'; (3) max_macs is kept by "
            "shrinking: operators = 'remove' lacks 'shrink'; (4) top = 99 is out of range: at most",
        ),
        (
            {"operators": "remov,skrink"},
            "operators = 'remov,skrink': 'remov', 'skrink' is unknown: allowed are remove, shrink, skip; did you mean",
        ),
        (
            {"dataset": "folder"},
            "dataset = 'folder' is unknown: allowed are digits, fashion_mnist, cifar10, cifar100, svhn, a path that "
            "ends in .npz (numpy.savez writes it from train_images, train_labels, test_images and test_labels)",
        ),
    ],
)
def test_refusals_in_one_line(values: dict[str, Any], line: str) -> None:
    assert refusal(**values).startswith(line)


def test_nearest_choice_is_named() -> None:
    assert refusal(teacher="resnet99").endswith("did you mean 'resnet18'?")
    assert refusal(dataset="cifar-10").endswith("did you mean 'cifar10'?")
    assert "did you mean" not in refusal(dataset="folder") + refusal(dataset="my/images") + refusal(sampler="hyperband")
    assert refusal(teacher="ShuffleNet_1x_g3").endswith("did you mean 'shufflenet_1.0x_g3'?")
    assert nearest("k", ["seed", "K"]) == "K"
    assert nearest("resnet99", ["resnet34", "resnet18"]) == "resnet34"  # the first of equals


def test_long_values_are_cut() -> None:
    assert len(refusal(study="x" * 10_000)) < 300
    assert len(refusal(K="a\nb" * 10_000)) < 300


@pytest.mark.parametrize("name", ["..", ".", "", "a/b/c", "/a", "a/", "../a", "a b", "-a", ".a", "ä", "a\n", "x" * 101])
def test_study_names_that_are_no_folder(name: str) -> None:
    assert "is no name of a folder" in refusal(study=name)


def test_what_the_demonstration_needs_is_not_for_a_teacher_of_the_user_s() -> None:
    demo, own = CompressConfig(), CompressConfig(teacher="nets.py:Net", dataset="images.npz")
    assert '"growth_rate": 8' in demo.teacher_options and demo.image_channels == 3
    assert (own.teacher_options, own.image_channels) == ("", 0) and set(own.changed()) == {"teacher", "dataset"}
    for values in ({"teacher_options": '{"width": 8}'}, {"image_channels": 3}):
        ((name, value),) = values.items()
        assert getattr(CompressConfig(teacher="nets.py:Net", **values), name) == value
    assert CompressConfig(teacher="cnn4").teacher_options == ""
    assert CompressConfig(teacher_options="").teacher_options == ""


def test_known_names() -> None:
    for teacher in registry("teacher"):
        assert StudyConfig(teacher=teacher).teacher == teacher
    for dataset in (*registry("dataset"), "/data/mine.npz", "mine.npz"):
        assert StudyConfig(dataset=dataset).dataset == dataset
    for dataset in (".npz", "mine.npy", "npz", ""):
        assert "is unknown" in refusal(dataset=dataset)
    for device in ("auto", "cpu", "cuda", "cuda:3"):
        assert StudyConfig(device=device).device == device
    assert len(registry("teacher")) == len(set(registry("teacher"))) == 9 + 15


def test_numbers() -> None:
    config = StudyConfig(teacher_lr=1, max_minutes=2)
    assert isinstance(config.teacher_lr, float)
    assert isinstance(config.max_minutes, float)
    assert "wrong type" in refusal(teacher_lr=10**400)


@given(st.lists(st.sampled_from(list(registry("operator"))), min_size=1))
def test_operators_are_normalised(names: list[str]) -> None:
    config = StudyConfig(operators=" , ".join(names))
    assert config.operator_names == tuple(name for name in registry("operator") if name in names)
    assert not config.difference(StudyConfig(operators=",".join(reversed(names))))


def test_search_only() -> None:
    config = StudyConfig(final="none", final_epochs=0, top=99)
    assert config.num_evaluations == 16
    assert not config.difference(StudyConfig(final="none", final_epochs=5, top=1, final_lr=1.0))
    assert [name for name, _, _ in config.difference(StudyConfig(top=1))] == ["final", "final_epochs", "top"]


def test_frozen_hashable_copyable() -> None:
    config = StudyConfig()
    with pytest.raises(ConfigError, match=r"^K = 3: a config does not change"):
        config.K = 3
    assert config.K == 4
    assert hash(config) == hash(StudyConfig())
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config


def test_every_door_speaks_in_one_line() -> None:
    for door in (StudyConfig.from_dict, StudyConfig.from_notebook, StudyConfig.model_validate):
        with pytest.raises(ConfigError, match=r"^unknown parameter 'k' \(= 8\)"):
            door({"k": 8})
    with pytest.raises(ConfigError, match=r"^3 is no set of parameters"):
        StudyConfig.model_validate(3)


def test_plain_data_and_back() -> None:
    config = StudyConfig(K=8, steps=20, teacher="resnet18", final_lr=0.01, augment=False)
    values = config.to_dict()
    assert list(values) == FIELDS
    assert {type(value) for value in values.values()} <= {str, int, float, bool}
    assert StudyConfig.from_dict(yaml.safe_load(yaml.safe_dump(values))) == config
    assert StudyConfig.from_dict({}) == StudyConfig()


class TestNotebook:
    """`from_notebook` reads the globals() of a notebook."""

    def test_what_is_no_parameter(self) -> None:
        namespace: dict[str, Any] = {
            **StudyConfig(K=2).to_dict(),
            **{"__name__": "__main__", "_": 3, "_i1": "K = 2", "_dh": ["/"], "In": [""], "Out": {1: 2}},
            **{"get_ipython": None, "exit": 1, "quit": 1, "open": open},
            **{"math": math, "esnac": types.ModuleType("esnac"), "Path": Path, "StudyConfig": StudyConfig, "f": len},
            **{"config": StudyConfig(), "table": object()},
        }
        assert StudyConfig.from_notebook(namespace) == StudyConfig(K=2)

    @pytest.mark.parametrize("value", [8, 8.5, "x", None, True, [1], {"a": 1}, Path("x")])
    def test_plain_data_under_an_unknown_name(self, value: Any) -> None:
        with pytest.raises(ConfigError, match=r"^unknown parameter 'Seed' .* the nearest known one is 'seed'"):
            StudyConfig.from_notebook({"K": 4, "Seed": value})

    @pytest.mark.parametrize("value", [math, len, StudyConfig, object()])
    def test_a_parameter_that_was_overwritten(self, value: Any) -> None:
        with pytest.raises(ConfigError, match=r"^teacher = .* is of the wrong type .*: a text is allowed$"):
            StudyConfig.from_notebook({"teacher": value})

    @given(st.text(string.ascii_letters + "_", min_size=1, max_size=12), st.integers() | st.text())
    def test_any_name(self, name: str, value: int | str) -> None:
        known = name.startswith("_") or name in FIELDS or name in {"In", "Out", "exit", "quit", "open", "display"}
        if not known:
            with pytest.raises(ConfigError, match=r"\Aunknown parameter [^\n]*\Z"):
                StudyConfig.from_notebook({name: value})


class TestPreset:
    """A preset sets what is not given; what is given wins."""

    def test_it_sets_how_esnac_searches(self) -> None:
        for name, values in PRESETS.items():
            given = StudyConfig(preset=name).to_dict()
            assert {key: given[key] for key in values} == values
        assert StudyConfig(preset="ours", subset=0.7, first="random").to_dict() == {
            **StudyConfig().to_dict(), **PRESETS["ours"], "preset": "ours", "subset": 0.7, "first": "random",
        }  # fmt: skip
        assert CompressConfig().preset == "ours" and CompressConfig().sampling == "mild"
        assert CompressConfig(preset="paper").sampling == "paper"

    def test_to_other_samplers_only_the_draws_apply(self) -> None:
        for sampler in registry("sampler"):
            if sampler not in ("esnac", "transfer"):
                found = StudyConfig(preset="ours", sampler=sampler)
                assert not found.difference(StudyConfig(sampler=sampler, sampling="mild"))
        assert StudyConfig(preset="ours", operators="remove").first == "random"

    def test_it_is_no_part_of_a_result(self) -> None:
        spelled_out = StudyConfig.from_dict(PRESETS["ours"])
        assert not StudyConfig(preset="ours").difference(spelled_out)
        check_resume(spelled_out.to_dict(), StudyConfig(preset="ours"))
        check_resume(StudyConfig(preset="ours").to_dict(), spelled_out)
        with pytest.raises(ConfigError, match="sampling: stored 'paper', given 'mild'"):
            check_resume(StudyConfig().to_dict(), StudyConfig(preset="ours"))

    def test_a_ledger_from_before_there_were_presets_is_as_in_the_paper(self) -> None:
        old = {name: value for name, value in StudyConfig(K=2).to_dict().items() if name not in PRESETS["paper"]}
        del old["preset"]
        assert StudyConfig.from_stored(old) == StudyConfig(K=2, preset="paper")
        assert StudyConfig.from_stored({**old, **PRESETS["ours"]}).difference(StudyConfig(K=2, preset="ours")) == []

    def test_each_variant_of_an_experiment_gets_what_fits_its_sampler(self) -> None:
        studies = {study.study.split("/")[1]: study for study in N2nConfig(preset="ours").studies()}
        assert studies["esnac_seed0"].acquisition == "local" and studies["random_seed0"].acquisition == "random"
        assert studies["n2n_seed0"].sampling == "mild" and studies["esnac_removal_seed0"].first == "random"
        assert {study.acquisition for study in AblationsConfig(preset="ours").studies()} == {"random", "evolution"}


class TestDescription:
    """A config shows all of its parameters, and marks those that differ from the preset."""

    def test_text(self) -> None:
        heading, *lines = StudyConfig(preset="ours", K=2, keep="norm").describe().splitlines()
        assert heading == f"StudyConfig: 2 of {len(FIELDS)} parameters differ from the preset 'ours' (marked *)"
        assert [line[2:].split()[0] for line in lines] == FIELDS
        assert [line for line in lines if line.startswith("*")] == [
            "* K                = 2                     # kernels, and architectures a step (default 4)",
            "* keep             = 'norm'                # filters that shrinking keeps: the first, or those of the "
            "largest norm (default 'first')",
        ]

    def test_html(self) -> None:
        text = StudyConfig(study="tiny", K=2, min_accuracy=0.5)._repr_html_()
        assert "3 of" in text and text.count("<tr>") == len(FIELDS) + 1
        assert "<b>K *</b>" in text and "<b>2</b> (default 4)" in text and "<b>steps" not in text

    def test_changed(self) -> None:
        assert StudyConfig(preset="ours").changed() == {} == CompressConfig().changed()
        assert StudyConfig(preset="ours", acquisition="random").changed() == {"acquisition": "random"}
        assert StudyConfig(sampling="mild").changed() == {"sampling": "mild"}


def test_difference() -> None:
    config = StudyConfig()
    assert (
        config.difference(StudyConfig(device="cpu", data_root="/x", max_minutes=3, study="other", evaluator="ray"))
        == []
    )
    assert config.difference(StudyConfig(K=8, seed=1)) == [("K", 4, 8), ("seed", 0, 1)]
    assert set(FIELDS) >= RESULT_FREE


class TestResume:
    def test_allowed(self) -> None:
        old = StudyConfig(max_minutes=1).to_dict()
        check_resume(old, StudyConfig())
        check_resume(old, StudyConfig(device="cpu", data_root="/x", steps=9))
        check_resume({}, StudyConfig())  # what was not stored had its default

    def test_every_difference_is_named(self) -> None:
        with pytest.raises(ConfigError) as caught:
            check_resume(StudyConfig(K=2, seed=7).to_dict(), StudyConfig(study="mine", device="cpu"))
        assert str(caught.value) == (
            "study 'mine' was started with other parameters: K: stored 2, given 4; seed: stored 7, given 0; "
            "use another study name or give the stored value back"
        )

    def test_steps_may_grow_and_shrink(self) -> None:
        """Fewer finish the study with the best of what is evaluated."""
        for steps in (6, 4):
            check_resume(StudyConfig(steps=5).to_dict(), StudyConfig(steps=steps))

    def test_every_other_field_is_held(self) -> None:
        other: dict[str, Any] = {
            **{"teacher": "conv7", "dataset": "svhn", "sampler": "random", "kernel_loss": "marginal"},
            **{"acquisition": "evolution", "final": "paper", "schedule": "step", "operators": "remove"},
            "label_smoothing": 0.1,
            "objective": "macs",
            **{"teacher_options": '{"width": 2}', "teacher_weights": "net.safetensors", "normalise": "0.5/0.2"},
            **{
                "image_channels": 3,
                "grouping": "dependency",
                "keep": "norm",
                "sampling": "mild",
                "first": "narrowed",
                "surrogate": "accuracy",
                "subset": 0.7,
            },
        }
        free = {*RESULT_FREE, "study", "steps", "source"}
        for name, value in StudyConfig().to_dict().items():
            changed = other.get(name, not value if isinstance(value, bool) else None)
            changed = value + 1 if changed is None and not isinstance(value, str) else changed
            if name not in free:
                rest = {"teacher": "my_nets:net"} if name in ("teacher_options", "teacher_weights") else {}
                with pytest.raises(ConfigError, match=f"parameters: {name}: stored"):
                    check_resume(StudyConfig(**rest).to_dict(), StudyConfig.from_dict({**rest, name: changed}))
        old, new = (StudyConfig(sampler="transfer", source=source) for source in "ab")
        with pytest.raises(ConfigError, match="parameters: source: stored 'a', given 'b'"):
            check_resume(old.to_dict(), new)

    def test_unknown_to_this_version(self) -> None:
        with pytest.raises(ConfigError, match="novelty: stored 3, given nothing"):
            check_resume({**StudyConfig().to_dict(), "novelty": 3}, StudyConfig())


def test_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ESNAC_OUTPUTS", raising=False)
    monkeypatch.delenv("ESNAC_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    config = StudyConfig(study="mine")
    assert outputs_root() == ROOT / "outputs"
    assert study_dir(config) == ROOT / "outputs" / "mine"
    assert data_root_of(config) == ROOT / "data"
    monkeypatch.setenv("ESNAC_OUTPUTS", str(tmp_path / "out"))
    monkeypatch.setenv("ESNAC_DATA", "elsewhere")
    assert study_dir(config) == tmp_path / "out" / "mine"
    assert data_root_of(config) == ROOT / "elsewhere"
    assert data_root_of(StudyConfig(data_root=str(tmp_path))) == tmp_path
    assert not (tmp_path / "out").exists()


def test_folders_without_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ESNAC_OUTPUTS", raising=False)
    monkeypatch.setattr(paths, "_CHECKOUT", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    assert outputs_root() == tmp_path / "outputs"


def test_fast_and_light() -> None:
    started = time.perf_counter()
    for _ in range(20):
        StudyConfig.from_notebook({"K": 3})
        with pytest.raises(ConfigError):
            StudyConfig.from_dict({"K": 0})
    assert (time.perf_counter() - started) / 20 < 0.1

    code = (
        "import importlib.util, sys, types\n"
        "package = types.ModuleType('esnac_lib'); package.__path__ = [sys.argv[1]]\n"
        "sys.modules['esnac_lib'] = package\n"
        "import esnac_lib.config\n"
        "heavy = {'torch', 'pandas', 'numpy', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(ROOT / "esnac_lib")], check=True, timeout=60)


def test_the_steps_of_n2n_do_not_grow() -> None:
    """They say where its second stage begins."""
    old = StudyConfig(sampler="n2n", steps=4)
    check_resume(old.to_dict(), old)
    with pytest.raises(ConfigError, match="steps: stored 4, given 5"):
        check_resume(old.to_dict(), StudyConfig(sampler="n2n", steps=5))


def test_n2n_adds_no_skips() -> None:
    with pytest.raises(ConfigError, match="only removes and shrinks"):
        StudyConfig(sampler="n2n", operators="skip")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"teacher": "my nets:net"}, "names no callable"),
        ({"teacher": "my_nets:"}, "names no callable"),
        ({"teacher": "m:n", "teacher_options": "{width: 2}"}, "is no JSON"),
        ({"teacher": "m:n", "teacher_options": "[2]"}, "a JSON object"),
        ({"teacher": "m:n", "teacher_weights": "net.pt"}, r"a \.safetensors file is allowed"),
        ({"teacher_options": '{"width": 2}'}, "is for a teacher of your own"),
        ({"normalise": "0.5"}, "mean/std is allowed"),
        ({"normalise": "0.5,0.5/0.2"}, "mean/std is allowed"),
        ({"normalise": "0.5/0"}, "std above 0"),
        ({"normalise": "127/50"}, "of images from 0 to 1, mean within that"),
        ({"normalise": "0.5/nan"}, "mean/std is allowed"),
        ({"image_channels": 1}, r"0 \(as the images are\) and 3 are allowed"),
        ({"max_params": 1000, "operators": "remove"}, "max_params is kept by shrinking"),
        ({"min_accuracy": 1.5}, "min_accuracy = 1.5 is out of range"),
    ],
)
def test_a_teacher_of_ones_own_is_checked_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        StudyConfig.from_dict(values)
    assert "\n" not in str(told.value)


def test_a_teacher_of_ones_own() -> None:
    config = StudyConfig(teacher="nets/mine.py:Net", teacher_options='{"num_classes": 10}', normalise="0.5,0.4/0.2,0.1")
    assert config.own_normalisation == ((0.5, 0.4), (0.2, 0.1)) and StudyConfig().own_normalisation is None
