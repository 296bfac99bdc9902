"""The flags of commands that have many."""
