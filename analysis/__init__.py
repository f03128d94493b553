"""What came out: run folders -> one tidy frame -> tables and figures, without torch.

`runs` reads run folders, `frame` recomputes the metrics from stored predictions, `resample` says how sure they are,
`tables` decides which runs stand behind a cell, `explain` gives all that does as plain data. `published` has the
paper's numbers, `shape` compares ours with them. `shown` decides what every form of a table shows, `text` (terminal,
CSV, Markdown), `latex` and `compare` (LaTeX beside the paper) write it. `figures` holds what all figures share and
`curves` draws one.
"""
