"""Captures with truth, in the layouts in which their owners give them away."""

from worldstereo.data.captures.capture import Capture as Capture
from worldstereo.data.captures.find import find_captures as find_captures
from worldstereo.data.captures.find import picture_files as picture_files
from worldstereo.data.captures.find import read_capture as read_capture
