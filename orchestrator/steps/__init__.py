"""What a step function is given: its context, and the typed parameters of each kind of step."""
