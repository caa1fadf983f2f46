"""The second paper: *Architecture Compression* (Ashok), compression by gradient descent on an embedding.

An autoencoder learns to map sequences of layers to a latent vector and back, two regressors predict accuracy and
number of parameters from that vector, and gradient descent on it leads to smaller networks. Sections, equations and
tables cited in this package are that paper's unless another one is named.

Start with `study.py` (`CompressionStudy`), which runs the stages in order:

1. `collection.py` trains random architectures (`random_architectures.py`, `sequence.py`, `trials.py`).
2. `codec_training.py` fits the autoencoder and its regressors (`networks.py`, `joint_training.py`, `codec.py`).
3. `rounds.py` descends, decodes and trains what was decoded (`descent.py`, `repair.py`).
4. `final.py` trains the best student to the end, and `baselines.py` what it is compared with (`fitnet.py`,
   `taylor_pruning.py`).
"""
