"""The page, the PDF, the page of results, and the explanation of one cell."""
