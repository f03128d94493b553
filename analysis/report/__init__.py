"""Pages and documents: HTML, PDF, and where a number comes from."""
