"""A napari plugin: segment an image layer, train on layers, compare two models. Needs ``unetzoo[napari]``.

napari finds it through ``napari.yaml``. Code that needs no window is in :mod:`unetzoo.napari.layers`, ``segmenting``,
``agreement`` and ``training``; the widgets, one per file, call it in threads, and show the results.
"""
