"""One folder a data set; its `build.py` defines `build(request)`."""
