"""The shipped slice protocol with three members and a fixed budget, as tests of releases and registries want it."""

from __future__ import annotations

from pipeline.protocol import Sampling, TriageProtocol, load_protocol


def slice_protocol() -> TriageProtocol:
    """The protocol, checked as every other."""
    shipped = load_protocol("brain-tumour-slice")
    network = shipped.network.model_copy(update={"members": 3, "sampling": Sampling.FIXED})
    return shipped.model_copy(update={"network": network})
