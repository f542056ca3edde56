"""How data sets lie in folders: a layout a file, behind one registry."""

from unetzoo.data.layouts import annotated as annotated, csv_lists as csv_lists, plain as plain  # which registers them
from unetzoo.data.layouts._base import (
    LAYOUTS as LAYOUTS,
    Layout as Layout,
    Meaning as Meaning,
    Understood as Understood,
    register_layout as register_layout,
)
