"""Running a plan: scheduling, worker processes, causes of death."""
