"""The ground floor: errors for the user, words of a command, whole files, locks, addresses. Standard library only."""
