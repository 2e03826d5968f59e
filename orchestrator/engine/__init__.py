"""Running a plan: scheduling, worker processes, and why they failed."""
