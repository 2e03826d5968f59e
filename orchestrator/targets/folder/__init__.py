"""A deployment as a folder that something else serves from."""
