"""Forwards requests to a server that cannot listen on the deployment's own socket."""
