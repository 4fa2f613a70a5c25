"""One run of a network, and every spatial operation in it: in order, with what feeds it and the periods it has written."""

from gradlens.geometry.tracing.calls import TAPS, Call
from gradlens.geometry.tracing.trace import Period, Trace, Way, periods, trace
from gradlens.geometry.tracing.tracer import INPUT, Meeting, Step

__all__ = ["INPUT", "TAPS", "Call", "Meeting", "Period", "Step", "Trace", "Way", "periods", "trace"]
