"""Native kernels for CPUs, optional: `python -m unshard.kernels` compiles them once.

Everything here has a plain PyTorch path that is taken where they are not compiled, and says the
same up to rounding. docs/decisions/0013-native-kernels.md has the reasons.
"""
