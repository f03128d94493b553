"""Builders, one folder for each data set; its `build.py` defines `build(request)`."""
