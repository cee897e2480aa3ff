"""How an entity is named in a call: by one of its three keys."""

from __future__ import annotations

from .v1 import EntityLookup


def entity_id(value: str) -> EntityLookup:
    """By the id that the service gave it."""
    return EntityLookup(entity_id=value)


def external_id(value: str) -> EntityLookup:
    """By an id of your own, the primary one or an alias."""
    return EntityLookup(external_id=value)


def tax_id(value: str) -> EntityLookup:
    """By its tax id, whatever the punctuation. One that several entities have is AMBIGUOUS_TAX_ID_LOOKUP."""
    return EntityLookup(tax_id=value)
