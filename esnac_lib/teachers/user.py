"""A teacher of the user's own: a module made by their callable, with their weights.

    teacher = "torchvision.models:mobilenet_v2", or "path/to/file.py:Net"
    teacher_options = '{"num_classes": 10}', what the callable is given
    teacher_weights = "net.safetensors", as safetensors.torch.save_file(net.state_dict(), "net.safetensors") writes it

Whatever is wrong with them is reported in one line, before anything is trained.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from esnac_lib.config.registry import did_you_mean
from esnac_lib.config.study import StudyConfig
from esnac_lib.data.datasets import Dataset
from esnac_lib.errors import ConfigError, one_line
from esnac_lib.files import shown


def is_own(config: StudyConfig) -> bool:
    """Return whether the teacher of a study is the user's own."""
    return ":" in config.teacher


def own_teacher(config: StudyConfig, dataset: Dataset, seed: int) -> nn.Module:
    """Return the user's module on the CPU, in training mode, with their weights or those that it draws with this seed.

    Raises:
        ConfigError: The callable cannot be found or fails, the weights do not fit, or the outputs are not one for each
            class: it must map images of the data set, (B, C, H, W), to (B, classes).
    """
    make = _callable(config.teacher, dataset.num_classes)
    options = json.loads(config.teacher_options or "{}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed other devices too
        try:
            module = make(**options)
        except Exception as error:
            raise ConfigError(f"teacher = {config.teacher!r} with {options} fails: {one_line(error)}") from None
    if not isinstance(module, nn.Module):
        raise ConfigError(f"teacher = {config.teacher!r} returns {type(module).__name__}, not a torch.nn.Module")
    if any(tensor.is_meta for tensor in module.state_dict().values()):
        raise ConfigError(f"teacher = {config.teacher!r} is on the device 'meta', without numbers: build it on the CPU")
    module = module.cpu().train()
    if config.teacher_weights:
        _load(module, Path(config.teacher_weights).expanduser())
    _check_outputs(module, config, dataset)
    return module


def _callable(name: str, classes: int) -> Callable[..., Any]:
    place, _, attribute = name.rpartition(":")
    try:
        module = _file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        found = getattr(module, attribute, None)
    except Exception as error:
        raise ConfigError(f"teacher = {name!r} cannot be imported: {one_line(error)}") from None
    if found is None:
        hint = did_you_mean(attribute, [known for known in vars(module) if not known.startswith("_")])
        if place == "timm":  # its models are made by name
            options = json.dumps({"model_name": attribute, "num_classes": classes})
            hint = f"; give timm:create_model with teacher_options = {options!r}"
            if attribute not in (known := module.list_models()):
                hint = did_you_mean(attribute, known)
        if place == "torchvision":
            hint = f"; give torchvision.models:{attribute}"
        raise ConfigError(f"teacher = {name!r}: {place} has no {attribute!r}{hint}")
    if not callable(found):
        raise ConfigError(f"teacher = {name!r} is {type(found).__name__}: it must be a class or a function")
    return found


def _file(path: Path) -> Any:
    """Return the module that a Python file is, under a name of its own, so that it hides no other.

    The text itself is compiled: stored bytecode is taken for it after an edit in the same second that keeps its length.
    """
    path = path.expanduser().resolve()
    if not path.exists():
        raise FileNotFoundError(f"no file {path.name} in {path.parent}")
    loader = SourceFileLoader(f"esnac_user_{path.stem}", str(path))
    module = ModuleType(loader.name)
    module.__file__, module.__loader__ = str(path), loader
    sys.modules[loader.name] = module
    exec(loader.source_to_code(path.read_bytes(), str(path)), vars(module))
    return module


def _load(module: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"teacher_weights = {str(path)!r}: there is no such file")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"teacher_weights = {shown(path)!r} cannot be read: {one_line(error)}") from None
    own = module.state_dict()
    faults = {
        "lacks": [name for name in own if name not in weights and not name.endswith("num_batches_tracked")],
        "has, unlike the teacher,": [name for name in weights if name not in own],
        "has in another shape": [name for name in own if name in weights and own[name].shape != weights[name].shape],
        "has NaN in": [name for name, tensor in weights.items() if tensor.isnan().any()],
    }
    others = {fault: f" and {len(names) - 1} more" if names[1:] else "" for fault, names in faults.items()}
    if wrong := "; ".join(f"{fault} {names[0]!r}{others[fault]}" for fault, names in faults.items() if names):
        raise ConfigError(f"teacher_weights = {shown(path)!r} {wrong}: is it of this teacher?")
    module.load_state_dict(own | weights)


def _check_outputs(module: nn.Module, config: StudyConfig, dataset: Dataset) -> None:
    shape = (config.image_channels or dataset.in_channels, dataset.image_size, dataset.image_size)
    try:
        with torch.no_grad():
            outputs = module.eval()(torch.zeros(2, *shape))
    except Exception as error:
        channels = shape[0] == 1 and isinstance(
            error, RuntimeError
        )  # which PyTorch raises for the wrong number of them
        why = one_line(error) + ("; give image_channels = 3 for grey images" if channels else "")
        raise ConfigError(f"teacher = {config.teacher!r} fails on images of shape {shape}: {why}") from None
    finally:
        module.train()
    if not isinstance(outputs, Tensor) or tuple(outputs.shape) != (2, dataset.num_classes):
        tensor = isinstance(outputs, Tensor)
        shown = f"outputs of shape {tuple(outputs.shape)}" if tensor else type(outputs).__name__
        hint = "only classifiers are compressed: wrap it in a module that returns the classes' scores alone"
        if tensor and outputs.dim() == 2:
            hint = "is there a num_classes for teacher_options?"
        raise ConfigError(
            f"teacher = {config.teacher!r} returns {shown} for two images: it must be (2, {dataset.num_classes}), one "
            f"for each class of {dataset.name}; {hint}"
        )
