"""The public API as text: what there is, what changed since a release, and whether that was announced."""
