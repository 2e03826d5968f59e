"""Templates and the chart into folders, byte for byte reproducible."""
