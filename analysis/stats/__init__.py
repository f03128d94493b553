"""How sure the numbers are (bootstrap, McNemar), and accuracy by class."""
