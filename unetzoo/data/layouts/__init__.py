"""Folder layouts of data sets: one file each, behind one registry."""

from unetzoo.data.layouts import (  # importing registers them
    annotated as annotated,
    apart as apart,
    beside as beside,
    chosen as chosen,
    cityscapes as cityscapes,
    csv_lists as csv_lists,
    nnunet as nnunet,
    plain as plain,
    voc as voc,
)
from unetzoo.data.layouts._base import (
    LAYOUTS as LAYOUTS,
    Layout as Layout,
    Meaning as Meaning,
    Understood as Understood,
    register_layout as register_layout,
)
