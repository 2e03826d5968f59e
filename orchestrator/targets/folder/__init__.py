"""A deployment as a folder that another program serves from."""
