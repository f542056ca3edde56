"""A plugin of napari: segment an image layer, train on layers, compare two models. Needs ``unetzoo[napari]``.

napari finds it by ``napari.yaml``. What needs no window is in :mod:`unetzoo.napari.layers`, ``segmenting``,
``agreement`` and ``training``; the widgets, one a file, call that in threads, and show what comes.
"""
