"""The drawing engine of `builtin/sketch`: pictures from words alone, with Pillow.

It is a renderer, not a model. Functions are pure: the same input gives the same bytes on the same Pillow.
"""

from safelight.adapters.providers._sketch.encoding import OutputFormat, encode
from safelight.adapters.providers._sketch.pictures import draw
from safelight.adapters.providers._sketch.retouch import edit, vary

__all__ = ["OutputFormat", "draw", "edit", "encode", "vary"]
