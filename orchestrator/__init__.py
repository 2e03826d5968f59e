"""mlo: one YAML spec compiled into a proven, measured, deployed model."""

__all__ = ["__version__"]

__version__ = "0.1.0"
