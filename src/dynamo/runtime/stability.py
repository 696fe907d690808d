"""What may be relied on, asked at run time: `stability_of(KvRouter).tier`."""

from dynamo._core.stability import ExperimentalWarning, Stability, Tier, stability_of

__all__ = ["ExperimentalWarning", "Stability", "Tier", "stability_of"]

#: What makes marks cannot be marked where it is defined.
__stability__: dict[str, Stability] = dict.fromkeys(__all__, Stability(Tier.STABLE, "0.1"))
