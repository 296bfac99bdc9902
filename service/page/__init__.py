"""The page at ``/``: its HTML, CSS and ES modules, and how they are read."""
