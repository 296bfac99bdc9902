"""What is done with the items of a run: pictures are encoded, or codes decoded."""
