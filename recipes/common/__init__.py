"""The ground floor: what every room may use and what must work before the packages are installed."""
