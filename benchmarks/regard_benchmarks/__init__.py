"""`regard bench`: time and memory of regard and of other implementations of attention on this machine."""
