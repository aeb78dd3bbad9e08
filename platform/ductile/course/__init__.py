"""What each step asks: the phase's own problems as the difficulty service selects them, and remedies in the data."""

from ductile.course.course import Course, without_remedies

__all__ = ["Course", "without_remedies"]
