"""Processes and sockets: the HTTP server, the workers and their supervisor."""
