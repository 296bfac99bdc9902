"""The documentation: pages, and the scripts that build the site from them."""
