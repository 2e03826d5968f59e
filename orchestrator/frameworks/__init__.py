"""One room per framework: the only files that import one. They run in worker processes only."""
