"""What to run: the typed recipe schema, one YAML per table row, and the data sets' and presets' values."""
