"""What came out: run folders -> one tidy frame -> tables and figures, without torch.

`inputs` reads run folders and recomputes the metrics from stored predictions; `stats` says how sure they are; `tables`
decides which runs are behind a cell, puts the paper's numbers beside ours, and writes a table as LaTeX, text, CSV and
Markdown; `figures` draws; `report` puts all of it into a PDF, a page, and the explanation of one cell.
"""
