"""What came out: run folders -> one tidy frame -> tables and figures, without torch.

`runs` reads run folders, `frame` recomputes the metrics from stored predictions, `layout` reads
`recipes/tables/*.yaml`, `tables` decides which runs stand behind a cell, `text` writes a table as
LaTeX, CSV or terminal lines, `figures` holds what all figures share and `curves` draws one.
"""
