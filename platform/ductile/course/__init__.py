"""What each step asks: the phase's own problems as the difficulty service selects them, and remedies in the data."""

from ductile.course.course import Course

__all__ = ["Course"]
