"""InteractRank: two towers fused with engagement cross features (WWW'25, arXiv 2504.06609).

The package knows torch and numpy-class libraries only, so that the model, its training step and
its kernels can be read, tested and measured alone.
"""
