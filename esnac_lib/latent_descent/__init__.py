"""Architecture Compression (Ashok): architectures as sequences, an embedding of them, and descent in that embedding.

Start with `study.py` (`CompressionStudy`); `sequence.py` is the representation, `codec.py` the autoencoder with its
regressors, `descent.py` the descent, `baselines.py` what it is compared with. Sections and equations are that paper's.
"""
