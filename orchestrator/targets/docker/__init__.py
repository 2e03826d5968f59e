"""A deployment as containers of a Docker Engine, behind one published port."""
