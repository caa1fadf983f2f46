"""Networks as data: immutable graphs of layers, the PyTorch modules that they describe, and the way there and back.

Start with `graph.py` (`Architecture`) and `layer.py`; `layer_types.py` says what each kind of layer computes and costs,
`network.py` builds modules from architectures, `tracing/` reads architectures from modules, `export/` writes them out.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submodules=["export"],
    submod_attrs={
        "graph": ["Architecture", "Layer"],
        "encoding": ["encode"],
        "network": ["Network", "build", "inherit"],
        "tracing": ["trace"],
        "initialisation": ["fresh_network", "initialise"],
    },
)
