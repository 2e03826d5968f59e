"""How each kind of step is built from a spec, a model and what is known of the machine."""
