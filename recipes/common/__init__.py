"""The ground floor: what every room uses, and works before the packages are installed. Standard library only."""
