"""The compiled core. `from regard._native import core`; its types stand in `core.pyi`.

It lies in a package of its own because tools that read imports cannot see a bare extension.
The sources are in `native/`: they know pointers, sizes and strides, and nothing of PyTorch.
"""
