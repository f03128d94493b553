"""Runs on this machine: process groups, a queue, progress."""
