"""A deployment on this machine: a supervisor and the servers below it."""
