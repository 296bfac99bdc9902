"""One file a peer: what each serves, in the environment of the peers, as its own documentation has it."""
