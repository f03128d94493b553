"""Run folders as analysis reads them."""
