"""The end of a generated program: how raw images become its input, and what its outputs are called."""

from __future__ import annotations

import json
from collections.abc import Sequence

from esnac_lib.architecture.export.meaning import Normalisation
from esnac_lib.architecture.export.python_text import WIDTH
from esnac_lib.architecture.graph import Architecture

_PREPROCESS = '''

def preprocess(images: Tensor) -> Tensor:
    """Return raw images, an array or a tensor of uint8 {raw}, as the network reads them."""
    images = torch.as_tensor(images)
    if images.dim() == 3:  # grey
        images = images[..., None]
    if images.dtype != torch.uint8 or images.shape[1:3] != ({height}, {width}):
        raise ValueError("raw images are uint8 {raw}")
    x = images.expand(-1, -1, -1, {channels}).permute(0, 3, 1, 2) / 255
    return (x - x.new_tensor(MEAN).view(-1, 1, 1)) / x.new_tensor(STD).view(-1, 1, 1)
'''
_PREDICT = '''

def predict(model: nn.Module, images: Tensor) -> list[str]:
    """Return the class of each raw image."""
    with torch.no_grad():
        found = model.eval()(preprocess(images)).argmax(1)
    return [CLASSES[index] for index in found.tolist()]
'''


def meaning(architecture: Architecture, classes: Sequence[str] | None, normalisation: Normalisation | None) -> str:
    """Return the constants CLASSES, MEAN and STD, as far as they are known, and `preprocess` and `predict` by them."""
    channels, height, width = architecture.input_shape
    text = ""
    if classes is not None:
        quoted = [json.dumps(name, ensure_ascii=False) for name in classes]
        text += _constant("CLASSES", [name.encode("utf-8", "backslashreplace").decode() for name in quoted])
    if normalisation is not None:
        mean, std = ([repr(number) for number in part] for part in normalisation)
        text += _constant("MEAN", mean) + _constant("STD", std)
        raw = f"(batch, {height}, {width}, {channels})"
        text += _PREPROCESS.format(raw=raw, channels=channels, height=height, width=width)
        text += _PREDICT if classes is not None and len(architecture.output_shape) == 1 else ""
    return f"\n\n{text}" if text else ""


def _constant(name: str, values: Sequence[str]) -> str:
    """Return a list on one line, or on several as full as can be."""
    if len(line := f"{name} = [{', '.join(values)}]") <= WIDTH:
        return f"{line}\n"
    rows = [""]
    for value in values:
        if rows[-1] and len(rows[-1]) + len(value) + 6 > WIDTH:
            rows.append("")
        rows[-1] += f"{' ' if rows[-1] else ''}{value},"
    return "\n".join([f"{name} = [", *(f"    {row}" for row in rows), "]  # fmt: skip", ""])
