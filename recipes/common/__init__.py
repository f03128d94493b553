"""The ground floor: what every room uses, and what must work before the packages are installed. Standard library only."""
