"""Compare the sizes of all networks with the published ones: ``python examples/compare_parameters.py``."""

import sys

import unetzoo

table = unetzoo.compare(sys.argv[1:] or "*", progress=sys.stderr.isatty())
print(table)
agreeing = [row.name for row in table.rows if row.agrees]
published = [row.name for row in table.rows if row.published is not None]
print(f"{len(agreeing)} of {len(published)} published sizes agree")
