package entityservice

import entityv1 "entityservice/gen/entity/v1"

// ByID looks an entity up by the id that the service gave it.
func ByID(id string) *entityv1.EntityLookup {
	return &entityv1.EntityLookup{By: &entityv1.EntityLookup_EntityId{EntityId: id}}
}

// ByExternalID looks an entity up by an id of the caller's, its primary or an alias.
func ByExternalID(id string) *entityv1.EntityLookup {
	return &entityv1.EntityLookup{By: &entityv1.EntityLookup_ExternalId{ExternalId: id}}
}

// ByTaxID looks an entity up by its tax id, whatever its punctuation. One that several entities share is refused with
// AMBIGUOUS_TAX_ID_LOOKUP.
func ByTaxID(id string) *entityv1.EntityLookup {
	return &entityv1.EntityLookup{By: &entityv1.EntityLookup_TaxId{TaxId: id}}
}
