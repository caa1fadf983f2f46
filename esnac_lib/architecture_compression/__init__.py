"""Architecture Compression (Ashok): architectures as sequences, an embedding of them, and descent in that embedding.

Sources are cited by section and equation of that paper. Nothing is imported here, so that the parameters
(`compression_config`) are checked before PyTorch is loaded.
"""
