"""How Python is started on a node: by which interpreter, and in which container."""
