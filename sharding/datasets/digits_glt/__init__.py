"""digits_glt: scans of digits under six looks."""
