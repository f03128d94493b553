"""The house rules: imports, pages, a fresh machine."""
